from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ConfigError, PlanError
from prune2vec.planning.depth_rules import depth_of, near_ties
from prune2vec.planning.planner import Budget, make_plan
from tests.planning.made import curve_with_minima, made_profile

# (layers, small, large) as published for LLaMA-3-8B, Mistral-7B, Qwen2-7B and Phi-3-mini (instruct models).
PUBLISHED = [(32, 5, 25), (32, 8, 22), (28, 10, 25), (32, 8, 25)]
losses = st.floats(0, 10, allow_nan=False)


def depth(loss: list[float], variant: str, **rest: object) -> int:
    plan = make_plan(made_profile(loss), variant=variant, **rest)
    assert plan.keep_layers == tuple(range(len(plan.keep_layers)))
    return len(plan.keep_layers)


def notes(loss: list[float], variant: str, **rest: object) -> str:
    return " | ".join(make_plan(made_profile(loss, **rest), variant=variant).notes)


@pytest.mark.parametrize(("layers", "small", "large"), PUBLISHED)
def test_the_published_picks(layers: int, small: int, large: int) -> None:
    curve = curve_with_minima(layers, small, large)
    assert (depth(curve, "small"), depth(curve, "large")) == (small, large)


@given(st.lists(losses, min_size=2, max_size=60))
def test_both_picks_are_those_of_the_papers_code(loss: list[float]) -> None:
    middle = len(loss) // 2
    assert depth(loss, "small") == 1 + np.argmin(loss[:middle])
    assert depth(loss, "large") == middle + 1 + np.argmin(loss[middle:])


def test_large_is_the_default() -> None:
    profile = made_profile(curve_with_minima(8, 2, 6))
    assert make_plan(profile) == make_plan(profile, method="l3prune", variant="large")
    assert make_plan(profile).parameters == {"variant": "large"}


def test_equal_losses_go_to_the_shallowest() -> None:
    assert (depth([1.0] * 6, "small"), depth([1.0] * 6, "large")) == (1, 4)
    assert depth([3, 1, 2, 1, 4, 2, 5, 2], "small") == 2
    assert depth([3, 1, 2, 1, 4, 2, 5, 2], "large") == 6


def test_the_extra_depth_of_an_odd_count_is_in_the_upper_half() -> None:
    loss = [5, 4, 1, 3, 2]
    assert (depth(loss, "small"), depth(loss, "large")) == (2, 3)


def test_a_model_of_one_layer_has_only_a_large_pick() -> None:
    assert depth([1.0], "large") == 1
    with pytest.raises(PlanError, match="one layer"):
        depth([1.0], "small")


def test_a_variant_with_a_typo_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^planner 'l3prune': variant: .* got 'smal'; did you mean 'small'\?"):
        depth([1.0, 2.0], "smal")
    with pytest.raises(ConfigError, match=r"^planner 'l3prune': unknown key 'varient'; did you mean 'variant'\?"):
        make_plan(made_profile([1.0, 2.0]), varient="small")


def test_a_clear_inner_minimum_needs_no_note() -> None:
    assert notes([3, 1, 3, 3, 3, 1, 3, 3], "small") == ""
    assert notes([3, 1, 3, 3, 3, 1, 3, 3], "large") == ""


def test_a_minimum_at_the_edge_of_its_half_is_noted() -> None:
    assert "depth 4 is the upper edge of its half (1 to 4)" in notes([4, 3, 2, 1, 5, 3, 4, 5], "small")
    assert "depth 1 is the lower edge of its half (1 to 4)" in notes([1, 2, 3, 4, 5, 3, 4, 5], "small")
    assert "depth 5 is the lower edge of its half (5 to 8)" in notes([4, 3, 2, 4, 1, 3, 4, 5], "large")


def test_a_large_pick_at_the_last_layer_says_that_nothing_is_cut() -> None:
    plan = make_plan(made_profile([4, 3, 2, 4, 5, 4, 3, 2]), variant="large")
    assert len(plan.keep_layers) == 8 and "nothing is cut" in plan.notes[0]


def test_a_near_tie_is_noted_by_its_paired_spread() -> None:
    loss = [3.0, 2.05, 2.0, 3.0, 9, 8, 9, 9]
    # Depth 2 beats depth 3 in one of three groups: mean difference 0.05, its standard error 0.1155.
    swings = [[0, 0.15, 0, 0, 0, 0, 0, 0], [0, 0.05, 0, 0, 0, 0, 0, 0], [0, -0.2, 0, 0, 0, 0, 0, 0]]
    assert "near tie: depth 2 within two standard errors of depth 3" in notes(loss, "small", spread=swings)
    # Standard errors of 0.0289 and of 0.0115 around the same 0.05.
    for swing, tied in ((0.05, True), (0.02, False)):
        around = [[0, step, 0, 0, 0, 0, 0, 0] for step in (swing, 0, -swing)]
        assert ("near tie" in notes(loss, "small", spread=around)) == tied
    # A spread that both depths share says nothing about which one is better.
    shared = [[5.0], [0.0], [-5.0]]
    assert "near tie" not in notes(loss, "small", spread=shared)


def test_near_ties_look_inside_the_half_only() -> None:
    profile = made_profile([2.0, 1.0, 1.0, 1.0])
    assert near_ties(profile, 2, range(1, 3)) == []
    assert near_ties(profile, 3, range(3, 5)) == [4]


def test_one_group_has_no_spread_and_says_so() -> None:
    assert "uncertainty of the pick is not known" in notes([3, 1, 3, 3, 3, 1, 3, 3], "small", spread=[(0.0,)])


def test_over_the_budget_the_best_of_all_depths_that_fit_is_kept_not_the_best_of_the_half() -> None:
    loss = [3, 1, 3, 3, 2.5, 2.4, 2, 1.5]
    plan = make_plan(made_profile(loss), variant="large", budget=Budget(max_layers=6))
    assert len(plan.keep_layers) == 2
    assert plan.notes == ("large is depth 8, over the budget; kept 2, the best depth that fits it",)


def test_a_budget_that_admits_the_pick_changes_nothing_but_the_record() -> None:
    profile = made_profile(curve_with_minima(8, 2, 6))
    free, bound = make_plan(profile), make_plan(profile, budget=Budget(max_layers=6))
    assert (bound.keep_layers, bound.notes) == (free.keep_layers, free.notes)
    assert bound.parameters == {"variant": "large", "max_layers": 6}


PROFILE = made_profile(curve_with_minima(8, 2, 6))


@pytest.mark.parametrize(("given", "layers"), [("all", 8), ("ALL", 8), (3, 3), ("3", 3), (8, 8), ("small", 2), ("Large", 6)])
def test_a_depth_is_a_number_or_a_word(given: int | str, layers: int) -> None:
    assert make_plan(PROFILE, method="drop", drop="last0M", depth=given).keep_layers == tuple(range(layers))


@pytest.mark.parametrize("variant", ["small", "large"])
def test_the_words_mean_what_l3prune_picks_and_bring_its_notes(variant: str) -> None:
    profile = made_profile([4, 3, 2, 1, 1, 3, 4, 5])
    plan = make_plan(profile, variant=variant)
    assert plan.notes
    assert depth_of(profile, variant) == (len(plan.keep_layers), plan.notes)


@pytest.mark.parametrize("given", [0, 9, "-1", "smal", "2.5", 2.5, True, "", "9" * 5000])
def test_what_is_no_depth_is_refused_in_one_line(given: int | str) -> None:
    with pytest.raises((ConfigError, PlanError), match=r"^(planner 'drop': )?depth[^\n]+$"):
        make_plan(PROFILE, method="drop", drop="last0M", depth=given)


def test_a_word_that_was_meant_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"depth: expected all, small, large or a number of layers, got 'smal'; did you mean 'small'\?$"
    ):
        make_plan(PROFILE, method="effir", depth="smal")
