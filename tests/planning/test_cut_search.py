from __future__ import annotations

from fractions import Fraction

from prune2vec.models.kept import Kept
from prune2vec.planning.cut_loss_table import CutLoss
from prune2vec.planning.cut_search import MlpCut, best_admitted, candidates
from prune2vec.planning.planner import Layers
from tests.planning.made import made_profile, made_shape

HALF = Fraction(1, 2)
GUIDE = CutLoss.of(made_profile([4.0, 3.0, 2.0, 1.0]))


def test_mlps_go_in_the_order_given_inside_the_depth() -> None:
    cut = MlpCut(depth=3, mlps=2, width=HALF)
    assert cut.kept((3, 1, 2, 0)) == Kept(layers=(0, 1, 2), drop_mlp=(1, 2), width_cut=HALF)


def test_every_combination_is_tried_and_one_mlp_stays() -> None:
    found = [cut for _, cut in candidates(GUIDE, GUIDE.mlp_order, depths=range(1, 5), mlps=None, widths=(Fraction(0), HALF))]
    assert len(set(found)) == len(found) == 2 * (1 + 2 + 3 + 4)
    assert all(0 <= cut.mlps < cut.depth for cut in found)


def test_counts_and_shares_are_kept_to_and_an_order_that_stops_early_ends_the_search() -> None:
    def counts(ranks: Layers, mlps: int | Fraction | None) -> list[tuple[int, int]]:
        found = candidates(GUIDE, ranks, depths=(1, 3, 4), mlps=mlps, widths=(HALF,))
        return [(cut.depth, cut.mlps) for _, cut in found]

    assert counts(GUIDE.mlp_order, 2) == [(3, 2), (4, 2)]
    assert counts(GUIDE.mlp_order, HALF) == [(1, 0), (3, 1), (4, 2)]
    assert counts((3,), None) == [(1, 0), (3, 0), (4, 0), (4, 1)]


def test_the_best_is_the_least_loss_then_the_fewest_parameters_then_the_first() -> None:
    cuts = [
        (1.0, MlpCut(depth=4, mlps=0, width=Fraction(0))),
        (2.0, MlpCut(depth=3, mlps=1, width=Fraction(0))),
        (2.0, MlpCut(depth=2, mlps=0, width=HALF)),
        (2.0, MlpCut(depth=3, mlps=2, width=Fraction(0))),
        # Of 120 neurons as many as half.
        (2.0, MlpCut(depth=2, mlps=0, width=Fraction(501, 1000))),
        (3.0, MlpCut(depth=1, mlps=0, width=HALF)),
    ]
    shape = made_shape(4)
    assert shape.params(cuts[2][1].kept(())) == shape.params(cuts[4][1].kept(()))
    assert best_admitted(cuts, (2, 1, 0), shape, lambda keep: True) == cuts[0][1]
    assert best_admitted(cuts, (2, 1, 0), shape, lambda keep: shape.params(keep) < 8000) == cuts[2][1]
    assert best_admitted(cuts, (2, 1, 0), shape, lambda keep: False) is None
