from __future__ import annotations

import pytest

from prune2vec.errors import PlanError
from prune2vec.planning.first_layers import depth_of
from prune2vec.planning.make_plan import make_plan
from tests.planning.made import curve_with_minima, made_profile

PROFILE = made_profile(curve_with_minima(8, 2, 6))


@pytest.mark.parametrize(("depth", "layers"), [("all", 8), ("ALL", 8), (3, 3), ("3", 3), (8, 8), ("small", 2), ("Large", 6)])
def test_a_depth_is_a_number_or_a_word(depth: int | str, layers: int) -> None:
    assert depth_of(PROFILE, depth)[0] == layers


@pytest.mark.parametrize("variant", ["small", "large"])
def test_the_words_mean_what_l3prune_picks_and_bring_its_notes(variant: str) -> None:
    profile = made_profile([4, 3, 2, 1, 1, 3, 4, 5])
    plan = make_plan(profile, variant=variant)
    assert plan.notes
    assert depth_of(profile, variant) == (len(plan.keep_layers), plan.notes)


@pytest.mark.parametrize("depth", [0, 9, "-1", "smal", "2.5", 2.5, True, ""])
def test_what_is_no_depth_is_refused_in_one_line(depth: int | str) -> None:
    with pytest.raises(PlanError, match=r"^depth[^\n]+$"):
        depth_of(PROFILE, depth)


def test_a_word_that_was_meant_is_named() -> None:
    with pytest.raises(PlanError, match=r"got 'smal'; did you mean 'small'\?$"):
        depth_of(PROFILE, "smal")
