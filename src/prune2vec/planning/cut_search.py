"""The search over depth, dropped MLPs and width: the least predicted loss that a budget admits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape
from prune2vec.planning.cut_loss_table import CutLoss
from prune2vec.planning.planner import Allowed
from prune2vec.planning.shares import count_of

WIDTHS = tuple(Fraction(tenth, 10) for tenth in range(6))
"""Shares of the neurons that the search tries to cut."""


@dataclass(frozen=True, kw_only=True)
class MlpCut:
    """One way to cut.

    Attributes:
        depth: Layers that stay, the first ones.
        mlps: MLPs dropped among them.
        width: Share of the remaining MLPs' neurons to cut.
    """

    depth: int
    mlps: int
    width: Fraction

    def kept(self, ranks: Iterable[int]) -> Kept:
        """Return what stays when MLPs go in the order of ``ranks``."""
        inside = [layer for layer in ranks if layer < self.depth]
        return Kept.of(range(self.depth), drop_mlp=inside[: self.mlps], width_cut=self.width)


def candidates(
    guide: CutLoss,
    ranks: Iterable[int],
    *,
    depths: Iterable[int],
    mlps: int | Fraction | None,
    widths: Iterable[Fraction],
) -> Iterator[tuple[float, MlpCut]]:
    """Yield every cut with its predicted loss; those beyond what was measured are left out.

    Args:
        guide: What was measured.
        ranks: Layers in the order in which their MLPs go.
        depths: Depths to try.
        mlps: How many MLPs go, or what share of a depth's; None tries every number.
        widths: Widths to try.
    """
    order, tried = tuple(ranks), tuple(widths)
    for depth in depths:
        named = sum(layer < depth for layer in order)
        measured = guide.at(depth)
        # One MLP stays, and none goes whose turn nobody has measured.
        most = min(depth - 1, named, measured.most_mlps)
        numbers = range(most + 1) if mlps is None else (count_of(mlps, depth),)
        for number, width in itertools.product(numbers, tried):
            loss = measured.predicted(number, width) if number <= most else None
            if loss is not None:
                yield loss, MlpCut(depth=depth, mlps=number, width=width)


def best_admitted(
    cuts: Iterable[tuple[float, MlpCut]], ranks: Iterable[int], shape: ModelShape, allowed: Allowed
) -> MlpCut | None:
    """Return the cut with the least predicted loss that the budget admits, of equals the one with the fewest parameters.

    None when it admits none. Cuts that are equal in both go to the first.
    """
    order = tuple(ranks)
    best: tuple[float, int, MlpCut] | None = None
    for loss, cut in sorted(cuts, key=lambda scored: scored[0]):
        if best is not None and loss > best[0]:
            break
        kept = cut.kept(order)
        if allowed(kept) and (best is None or shape.params(kept) < best[1]):
            best = (loss, shape.params(kept), cut)
    return None if best is None else best[2]
