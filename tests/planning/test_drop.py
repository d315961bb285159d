from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.budget import Budget
from prune2vec.planning.make_plan import make_plan
from prune2vec.planning.plan import PruningPlan
from prune2vec.profiling.profile import Profile
from tests.planning.made import curve_with_minima, made_profile

# LLM-Drop's published lists for Mistral-7B-v0.1, the most redundant first.
MISTRAL_MLP = (26, 27, 25, 24, 23, 22, 29, 28)
MISTRAL_ATTENTION = (25, 26, 24, 22, 27, 28, 23, 21)


def importance(order: Sequence[int], layers: int) -> list[float]:
    """Return values that rank ``order`` first and the other layers after it, the first layer last."""
    rest = [layer for layer in reversed(range(layers)) if layer not in order]
    place = {layer: turn for turn, layer in enumerate((*order, *rest))}
    return [0.01 * place[layer] for layer in range(layers)]


def ordered(layers: int, mlp: Sequence[int] = (), attention: Sequence[int] = (), block: Sequence[int] = ()) -> Profile:
    rows = {kind: importance(order, layers) for kind, order in (("mlp", mlp), ("attention", attention), ("block", block))}
    # The joint list then takes turns: no two values are equal.
    rows["attention"] = [value + 0.005 for value in rows["attention"]]
    section = {**rows, "tokens": 1, "texts": "retrieval"}
    return made_profile(curve_with_minima(layers, layers // 4, 3 * layers // 4), sections={"redundancy": section})


def dropped(profile: Profile, what: str | None, **rest: Any) -> PruningPlan:
    return make_plan(profile, method="drop", what=what, **rest)


@pytest.mark.parametrize("count", range(1, 9))
def test_mistrals_published_lists(count: int) -> None:
    profile = ordered(32, MISTRAL_MLP, MISTRAL_ATTENTION)
    mlps, attentions = dropped(profile, f"{count}M"), dropped(profile, f"{count}A")
    assert mlps.drop_mlp == tuple(sorted(MISTRAL_MLP[:count])) and mlps.drop_attention == ()
    assert attentions.drop_attention == tuple(sorted(MISTRAL_ATTENTION[:count])) and attentions.drop_mlp == ()
    assert mlps.keep_layers == attentions.keep_layers == tuple(range(32))


def test_blocks_go_by_their_own_importance_and_last_ones_by_place() -> None:
    profile = ordered(8, mlp=(0, 1, 2), block=(3, 5, 1))
    assert dropped(profile, "3B").keep_layers == (0, 2, 4, 6, 7)
    assert dropped(profile, "last3B").keep_layers == (0, 1, 2, 3, 4)
    assert dropped(profile, "last3M").drop_mlp == (5, 6, 7)
    assert dropped(profile, "last50%A").drop_attention == (4, 5, 6, 7)
    assert dropped(profile, "last3B").keep_layers == make_plan(profile, method="depth", depth=5).keep_layers


def test_a_joint_drop_ranks_both_kinds_in_one_list() -> None:
    plan = dropped(ordered(8, mlp=(4, 2), attention=(5, 4)), "4J")
    assert (plan.keep_layers, plan.drop_mlp, plan.drop_attention) == ((0, 1, 2, 3, 5, 6, 7), (2,), (5,))
    assert "1 block loses both sub-layers, and so goes as a whole" in plan.notes


def test_kinds_are_ranked_apart_and_blocks_go_first() -> None:
    profile = ordered(8, mlp=(4, 3, 2), attention=(1, 4), block=(4,))
    plan = dropped(profile, "2M1A")
    assert (plan.drop_mlp, plan.drop_attention) == ((3, 4), (1,))
    plan = dropped(profile, "2M1A1B")
    assert (plan.keep_layers, plan.drop_mlp, plan.drop_attention) == ((0, 1, 2, 3, 5, 6, 7), (2, 3), (1,))


def test_the_depth_comes_first_and_counts_are_of_what_it_leaves() -> None:
    profile = ordered(8, mlp=(7, 6, 3, 1, 0))
    assert dropped(profile, "2M", depth=6).drop_mlp == (1, 3)
    assert dropped(profile, "50%M", depth=5).drop_mlp == (1, 3)
    for word, layers in (("small", 2), ("large", 6)):
        plan = dropped(profile, "1M", depth=word)
        assert plan.keep_layers == tuple(range(layers))
        assert plan.parameters["depth"] == word
    with pytest.raises(PlanError, match=r"^6M: there are 6 MLPs, of which 1 must stay; drop at most 5M$"):
        dropped(profile, "6M", depth="large")


@pytest.mark.parametrize("what", ["8M", "8B", "9A", "100%M", "100%B", "16J", "7M7A1B"])
def test_more_than_there_is_is_refused_in_one_line(what: str) -> None:
    with pytest.raises(PlanError, match=r"^[^\n]+(drop at most|at least one must stay)[^\n]*$"):
        dropped(ordered(8), what)


def test_first_and_last_layers_are_noted_where_importance_chose_them() -> None:
    profile = ordered(8, mlp=(7, 0), attention=(3,), block=(0,))
    assert dropped(profile, "2M").notes == ("drops the MLP of layer 0, the first one", "drops the MLP of layer 7, the last one")
    assert dropped(profile, "1A").notes == ()
    assert dropped(profile, "1B").notes == ("drops the block of layer 0, the first one",)
    assert dropped(profile, "last1B").notes == ()


def test_an_encoder_without_attention_says_so() -> None:
    plan = dropped(ordered(8), "100%A")
    assert plan.drop_attention == tuple(range(8))
    assert "no attention is left: no token sees another one" in plan.notes


def test_over_the_budget_it_says_what_it_would_need() -> None:
    profile = ordered(8)
    params = dropped(profile, "2M").shape.params(Kept.of(range(8), drop_mlp=(6, 7)))
    with pytest.raises(
        PlanError, match=rf"^drop \(what 2M, .*over the budget: {params:,} parameters against at most 9,000; cut more"
    ):
        dropped(profile, "2M", budget=Budget(max_params=9000))
    assert dropped(profile, "2M", budget=Budget(max_params=params)).drop_mlp == (6, 7)


def test_without_a_word_as_few_mlps_go_as_the_budget_needs() -> None:
    profile = ordered(8, mlp=(3, 5, 1, 6))
    two = profile.shape.params(Kept.of(range(8), drop_mlp=(3, 5)))
    plan = dropped(profile, None, budget=Budget(max_params=two))
    assert plan.drop_mlp == (3, 5) and plan.parameters["what"] == "2M"
    assert dropped(profile, None, budget=Budget(max_params=two - 1)).drop_mlp == (1, 3, 5)
    assert dropped(profile, None, depth=3, budget=Budget(max_layers=3)).parameters["what"] == "0M"


def test_without_a_word_or_a_budget_that_binds_or_can_be_met_it_is_refused() -> None:
    for budget in (None, Budget(max_layers=9)):
        with pytest.raises(PlanError, match=r"^give --what, such as 8M"):
            dropped(ordered(8), None, budget=budget)
    with pytest.raises(PlanError, match=r"^the budget admits no cut of MLPs alone: without 7 of 8"):
        dropped(ordered(8), None, budget=Budget(max_layers=4))


def test_an_order_that_names_too_few_layers_is_not_the_budgets_fault() -> None:
    section = {"mlp": [3, 1], "attention": [], "block": []}
    profile = ordered(5)
    profile = replace(profile, sections={**profile.sections, "redundancy-iterative": section})
    sizes = [profile.shape.params(Kept.of(range(5), drop_mlp=gone)) for gone in ((1, 3), (2, 3, 4))]
    enough = dropped(profile, None, order="iterative", budget=Budget(max_params=sizes[0]))
    assert enough.drop_mlp == (1, 3)
    assert dropped(profile, None, budget=Budget(max_params=sizes[1])).drop_mlp == (2, 3, 4)
    message = rf"^the iterative order names only 2 of 5 MLPs, and without them there are {sizes[0]:,} parameters, .*--rounds.*one-shot$"
    with pytest.raises(PlanError, match=message):
        dropped(profile, None, order="iterative", budget=Budget(max_params=sizes[1]))


def test_a_model_whose_parts_are_not_known_is_refused() -> None:
    profile = ordered(8)
    unknown = {name: () for name in ("attention_params", "attention_matmul_params", "mlp_params", "mlp_matmul_params")}
    blind = replace(profile, shape=replace(profile.shape, **unknown))
    with pytest.raises(PlanError, match="attention and MLP are not known apart"):
        dropped(blind, "1M")
    assert dropped(blind, "1B").keep_layers == (0, 1, 2, 3, 4, 5, 6)


@given(values=st.lists(st.floats(0, 1), min_size=2, max_size=40), data=st.data())
def test_the_dropped_are_never_more_important_than_the_kept(values: list[float], data: st.DataObject) -> None:
    section = {"attention": values, "mlp": values, "block": values, "tokens": 1, "texts": "retrieval"}
    profile = made_profile([1.0] * len(values), sections={"redundancy": section})
    depth = data.draw(st.integers(2, len(values)))
    count = data.draw(st.integers(1, depth - 1))
    plan = dropped(profile, f"{count}M", depth=depth)
    assert len(plan.drop_mlp) == count and set(plan.drop_mlp) <= set(range(depth))
    kept = [values[layer] for layer in range(depth) if layer not in plan.drop_mlp]
    assert max(values[layer] for layer in plan.drop_mlp) <= min(kept)
    smaller = dropped(profile, f"{count - 1}M", depth=depth)
    assert set(smaller.drop_mlp) < set(plan.drop_mlp)
    again = dropped(profile, **plan.parameters)
    assert again == plan
