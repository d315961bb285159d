from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune2vec.errors import ConfigError, PlanError, ProfileError
from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import render_plan
from prune2vec.planning.planner import Budget, make_plan
from prune2vec.profiling.profile import Profile, Redundancy
from tests.planning.made import curve_with_minima, made_profile

CURVE = curve_with_minima(8, 2, 6)
PROFILE = made_profile(CURVE)
ORDER = Redundancy.from_json(PROFILE.sections["redundancy"]).order("mlp")
MISTRAL_BILLIONS = (7.111, 4.292, 3.446)


def effir(profile: Profile = PROFILE, **rest: Any) -> PruningPlan:
    return make_plan(profile, method="effir", **rest)


def notes(plan: PruningPlan) -> str:
    return " | ".join(plan.notes)


def mistral() -> Profile:
    """The sizes of Mistral-7B-v0.1 and a cost for everything."""
    profile = made_profile(curve_with_minima(32, 8, 22))
    attention, mlp = 2 * 4096 * 4096 + 2 * 4096 * 1024, 3 * 4096 * 14336
    shape = replace(
        profile.shape,
        hidden_size=4096,
        attention_width=4096,
        embedding_params=32000 * 4096,
        block_params=(attention + mlp + 2 * 4096,) * 32,
        block_matmul_params=(attention + mlp,) * 32,
        final_params=4096,
        attention_params=(attention + 4096,) * 32,
        attention_matmul_params=(attention,) * 32,
        mlp_params=(mlp + 4096,) * 32,
        mlp_matmul_params=(mlp,) * 32,
        mlp_width=(14336,) * 32,
        neuron_params=(3 * 4096,) * 32,
        neuron_matmul_params=(3 * 4096,) * 32,
    )
    return replace(profile, shape=shape)


def test_without_a_budget_it_is_the_papers_shape_and_size() -> None:
    plan = effir(mistral())
    assert len(plan.keep_layers) == 32 and len(plan.drop_mlp) == 16 and plan.width_cut == Fraction(3, 10)
    sixteen = Kept.of(range(32), drop_mlp=plan.drop_mlp)
    sizes = [plan.shape.params(kept) for kept in (range(32), sixteen, plan.kept)]
    assert tuple(round(size / 1e9, 3) for size in sizes) == MISTRAL_BILLIONS
    assert plan.parameters == {"depth": 32, "mlps": 16, "width": "30%", "order": "one-shot"}
    assert effir(mistral(), **plan.parameters).kept == plan.kept


@pytest.mark.parametrize("depth", [5, "small", "large", "all", None])
@pytest.mark.parametrize("mlps", [1, "25%", None])
@pytest.mark.parametrize("width", ["20%", 0, None])
def test_what_is_given_is_done(depth: int | str | None, mlps: int | str | None, width: str | int | None) -> None:
    plan = effir(depth=depth, mlps=mlps, width=width)
    layers = {"small": 2, "large": 6, "all": 8, None: 8, 5: 5}[depth]
    count = {1: 1, "25%": layers // 4, None: layers // 2}[mlps]
    assert plan.keep_layers == tuple(range(layers))
    assert plan.drop_mlp == tuple(sorted([layer for layer in ORDER if layer < layers][:count]))
    assert plan.width_cut == {"20%": Fraction(1, 5), 0: 0, None: Fraction(3, 10)}[width]


def budgets() -> st.SearchStrategy[Budget]:
    # From what a single narrow layer needs up to a little less than the whole.
    return st.one_of(
        st.integers(5800, 13000).map(lambda size: Budget(max_params=size)),
        st.integers(1, 7).map(lambda layers: Budget(max_layers=layers)),
        st.floats(1.01, 8.0).map(lambda speedup: Budget(min_speedup=speedup)),
    )


@settings(max_examples=40)
@given(budget=budgets())
def test_a_budget_is_met_by_the_width_first_and_then_by_the_depth(budget: Budget) -> None:
    cuts = [
        Kept.of(range(depth), drop_mlp=[layer for layer in ORDER if layer < depth][: depth // 2], width_cut=Fraction(cut, 100))
        for depth in range(8, 0, -1)
        for cut in range(30, 51)
    ]
    fitting = [kept for kept in cuts if not budget.exceeded(PROFILE.shape, kept)]
    if not fitting:
        with pytest.raises(PlanError, match=r"^the budget admits no cut of these"):
            effir(budget=budget)
        return
    plan = effir(budget=budget)
    assert plan.kept == fitting[0]
    assert ("the paper's shape is over the budget" in notes(plan)) == (plan.kept != cuts[0])


def test_the_plan_says_what_the_budget_took() -> None:
    plan = effir(budget=Budget(max_params=8000))
    assert plan.parameters == {"depth": 5, "mlps": 2, "width": "40%", "order": "one-shot", "max_params": 8000}
    assert plan.notes[0] == (
        "the paper's shape is over the budget: 40% of the neurons are cut (30% without a budget), and 5 of 8 layers stay"
    )


@pytest.mark.parametrize(
    "given", [{"depth": "large"}, {"mlps": 2}, {"width": "40%"}, {"mlps": "50%", "width": 0.1}, {"depth": 7, "mlps": 3}]
)
def test_what_is_given_is_not_searched(given: dict[str, Any]) -> None:
    plan = effir(budget=Budget(max_params=11000), **given)
    assert plan.shape.params(plan.kept) <= 11000
    depth = len(plan.keep_layers)
    assert depth == {"large": 6, 7: 7, None: depth}[given.get("depth")]
    count = len(plan.drop_mlp)
    assert count == {2: 2, 3: 3, "50%": depth // 2, None: count}[given.get("mlps")]
    assert plan.width_cut == {"40%": Fraction(2, 5), 0.1: Fraction(1, 10), None: plan.width_cut}[given.get("width")]


def test_everything_given_is_held_against_the_budget() -> None:
    bare = made_profile(CURVE, sections={"redundancy": PROFILE.sections["redundancy"]})
    asked = {"depth": "all", "mlps": 4, "width": "30%"}
    plan = effir(bare, budget=Budget(max_params=12000), **asked)
    assert plan.kept == effir(**asked).kept
    with pytest.raises(
        PlanError, match=r"^effir \(depth all, mlps 4, width 30%, .* over the budget: [\d,]+ parameters against"
    ):
        effir(bare, budget=Budget(max_params=9000), **asked)


def test_an_order_that_was_not_measured_says_how_to_measure_it() -> None:
    plain = made_profile(CURVE, sections={})
    for budget in (None, Budget(max_params=12000)):
        with pytest.raises(ProfileError, match=r"no redundancy .* measure it with prune2vec profile --scorers redundancy$"):
            effir(plain, budget=budget)
        with pytest.raises(ProfileError, match=r"no redundancy-iterative .* --scorers redundancy-iterative$"):
            effir(plain, budget=budget, order="iterative")


def test_the_plan_says_what_to_expect() -> None:
    plan = effir()
    assert f"{plan.shape.params(plan.kept):,} parameters, " in notes(plan) and "x the speed by FLOPs" in notes(plan)
    assert "drops the MLP of layer 7, the last one" in notes(plan)
    assert "still to be cut with prune2vec slim" in render_plan(plan)


def test_the_order_decides_which_mlps_go() -> None:
    assert effir(order="plain").drop_mlp != effir().drop_mlp


def test_an_order_that_names_too_few_mlps_at_a_depth_passes_it_over() -> None:
    sections = {"redundancy-iterative": {"attention": [], "mlp": [7, 6, 5, 1], "block": []}}
    profile = made_profile(CURVE, sections=sections)
    # Of the first seven layers, three of the four that are named; of six, two; of five and four, one.
    plan = effir(profile, order="iterative", budget=Budget(max_layers=6))
    assert len(plan.keep_layers) == 3 and plan.drop_mlp == (1,)


def test_a_budget_that_nothing_meets_names_the_smallest_cut() -> None:
    least = PROFILE.shape.params(Kept.of([0], width_cut=Fraction(1, 2)))
    with pytest.raises(
        PlanError, match=rf"^the budget admits no cut of these: the smallest has {least:,} parameters in 1 layer "
    ):
        effir(budget=Budget(max_params=least - 1))
    assert effir(budget=Budget(max_params=least)).kept == Kept.of([0], width_cut=Fraction(1, 2))


@pytest.mark.parametrize(
    "given",
    [
        {"mlps": 8},
        {"mlps": 1, "depth": 1},
        {"mlps": "100%"},
        {"mlps": "x"},
        {"width": "100%"},
        {"width": "x"},
        {"depth": 9},
        {"depth": 2, "mlps": 2},
    ],
)
@pytest.mark.parametrize("budget", [None, Budget(max_params=12000)])
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], budget: Budget | None) -> None:
    with pytest.raises((ConfigError, PlanError), match=r"^(planner 'effir': )?(mlps|width|depth)[^\n]+$"):
        effir(budget=budget, **given)


def test_the_only_layer_keeps_its_mlp() -> None:
    with pytest.raises(PlanError, match=r"^mlps: 2 of 1, and one must stay; choose 0 to 0, or keep more layers$"):
        effir(depth=1, mlps=2)
    assert effir(depth=1, mlps=0).drop_mlp == ()


def test_a_model_without_known_neurons_keeps_its_width_when_told_to() -> None:
    shape = replace(PROFILE.shape, mlp_width=(), neuron_params=(), neuron_matmul_params=())
    blind = replace(PROFILE, shape=shape)
    plan = effir(blind, budget=Budget(max_params=9000), width=0)
    assert plan.width_cut == 0 and shape.params(plan.kept) <= 9000
    for budget in (None, Budget(max_params=9000)):
        with pytest.raises(PlanError, match=r"neurons of its MLPs are not known, so its width cannot be cut; give --width 0%$"):
            effir(blind, budget=budget)
