from __future__ import annotations

from fractions import Fraction

import pytest

from prune2vec.errors import PlanError
from prune2vec.planning.make_plan import make_plan
from prune2vec.planning.uniform import spread
from tests.planning.made import made_profile


@pytest.mark.parametrize(
    ("count", "of", "expected"),
    [
        (1, 9, (0,)),
        (2, 9, (0, 8)),
        (3, 9, (0, 4, 8)),
        (5, 9, (0, 2, 4, 6, 8)),
        (3, 4, (0, 1, 3)),
        (4, 4, (0, 1, 2, 3)),
        (1, 1, (0,)),
    ],
)
def test_hand_computed_spreads(count: int, of: int, expected: tuple[int, ...]) -> None:
    assert spread(count, of) == expected


def test_every_spread_has_first_and_last_no_repeats_and_is_never_off_by_more_than_half_a_layer() -> None:
    for of in range(1, 60):
        for count in range(2, of + 1):
            kept = spread(count, of)
            assert (len(kept), kept[0], kept[-1]) == (count, 0, of - 1)
            assert list(kept) == sorted(set(kept))
            assert all(abs(layer - Fraction(place * (of - 1), count - 1)) <= Fraction(1, 2) for place, layer in enumerate(kept))


def test_the_plan_names_original_layers() -> None:
    assert make_plan(made_profile([1.0] * 7), method="uniform", layers=3).keep_layers == (0, 3, 6)


def test_layers_must_be_given_without_a_budget() -> None:
    with pytest.raises(PlanError, match=r"^give --layers"):
        make_plan(made_profile([1.0] * 7), method="uniform")
