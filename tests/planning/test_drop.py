from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ConfigError, PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.drop import DropPart, parse_drop
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import Budget, make_plan
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
    return make_plan(profile, method="drop", drop=what, **rest)


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
    with pytest.raises(PlanError, match=r"^6M: MLPs there: 6, to stay at least: 1; drop at most 5M$"):
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
        PlanError, match=rf"^drop \(drop 2M, .*over the budget: {params:,} parameters against at most 9,000; cut more"
    ):
        dropped(profile, "2M", budget=Budget(max_params=9000))
    assert dropped(profile, "2M", budget=Budget(max_params=params)).drop_mlp == (6, 7)


def test_without_a_word_as_few_mlps_go_as_the_budget_needs() -> None:
    profile = ordered(8, mlp=(3, 5, 1, 6))
    two = profile.shape.params(Kept.of(range(8), drop_mlp=(3, 5)))
    plan = dropped(profile, None, budget=Budget(max_params=two))
    assert plan.drop_mlp == (3, 5) and plan.parameters["drop"] == "2M"
    assert dropped(profile, None, budget=Budget(max_params=two - 1)).drop_mlp == (1, 3, 5)
    assert dropped(profile, None, depth=3, budget=Budget(max_layers=3)).parameters["drop"] == "0M"


def test_without_a_word_or_a_budget_that_binds_or_can_be_met_it_is_refused() -> None:
    for budget in (None, Budget(max_layers=9)):
        with pytest.raises(PlanError, match=r"^give --drop, such as 8M"):
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
    message = rf"^the iterative order names only 2 of 5 MLPs, and without them there are {sizes[0]:,} parameters, .*more rounds"
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
    again = make_plan(profile, method="drop", **plan.parameters)
    assert again == plan


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("8M", [("M", 8, False)]),
        ("16a", [("A", 16, False)]),
        ("last16B", [("B", 16, True)]),
        ("LAST 50 %b", [("B", Fraction(1, 2), True)]),
        ("8J", [("J", 8, False)]),
        ("16M8A", [("M", 16, False), ("A", 8, False)]),
        ("8A+16M", [("M", 16, False), ("A", 8, False)]),
        ("12.5%M, 4B", [("B", 4, False), ("M", Fraction(1, 8), False)]),
        ("0M", [("M", 0, False)]),
        ("100%A", [("A", Fraction(1), False)]),
    ],
)
def test_the_words_of_the_papers_tables(text: str, parts: list[tuple[str, int | Fraction, bool]]) -> None:
    assert parse_drop(text) == tuple(DropPart(kind=kind, amount=amount, last=last) for kind, amount, last in parts)


amounts = st.one_of(st.integers(0, 99), st.integers(0, 1000).map(lambda tenths: Fraction(tenths, 1000)))
part = st.builds(lambda kind, amount, last: DropPart(kind=kind, amount=amount, last=last), st.just("M"), amounts, st.booleans())


@given(part, amounts)
def test_what_is_written_is_read_back(mlps: DropPart, attentions: int | Fraction) -> None:
    parts = (mlps, DropPart(kind="A", amount=attentions))
    assert parse_drop("".join(map(str, parts))) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a count or share"),
        ("8", "expected a count or share"),
        ("8X", "expected a count or share"),
        ("8M last", "expected a count or share"),
        ("-8M", "expected a count or share"),
        ("M8", "did you mean 8M?"),
        ("0.5M", "did you mean 50%M?"),
        ("8M4M", "MLPs are named twice"),
        ("8Blast4B", "blocks are named twice"),
        ("8J8A", "J already ranks"),
        ("last8J", "last8J has no meaning"),
        ("120%M", "120%M is more than all of them"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_drop(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(0, 100), st.integers(1, 200))
def test_shares_are_rounded_down_exactly(percent: int, total: int) -> None:
    (part,) = parse_drop(f"{percent}%A")
    assert part.count_of(total) == total * percent // 100


def test_more_than_there_is_names_the_most() -> None:
    with pytest.raises(PlanError, match=r"^9M: MLPs there: 8, to stay at least: 1; drop at most 7M$"):
        DropPart(kind="M", amount=9).count_of(8, leave=1)
    with pytest.raises(PlanError, match=r"^100%B: blocks there: 8, to stay at least: 1; drop at most 7B$"):
        DropPart(kind="B", amount=Fraction(1)).count_of(8, leave=1)
    with pytest.raises(PlanError, match=r"^2A: attentions there: 1, to stay at least: 0; drop at most 1A$"):
        DropPart(kind="A", amount=2).count_of(1)
    assert DropPart(kind="A", amount=8).count_of(8) == 8


@pytest.mark.parametrize("kind", "MB")
def test_of_one_none_can_go(kind: str) -> None:
    with pytest.raises(PlanError, match=rf"there: 1, to stay at least: 1; drop at most 0{kind}$"):
        DropPart(kind=kind, amount=2).count_of(1, leave=1)
    assert DropPart(kind=kind, amount=0).count_of(1, leave=1) == 0


def test_the_former_name_of_the_parameter_is_refused_with_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"^planner 'drop': unknown key 'what'; it is called 'drop' now$"):
        make_plan(ordered(8), method="drop", what="2M")
