from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune2vec.errors import PlanError, ProfileError
from prune2vec.models.kept import Kept
from prune2vec.planning.budget import Budget
from prune2vec.planning.cut_loss_table import CutLoss
from prune2vec.planning.cut_search import WIDTHS
from prune2vec.planning.make_plan import make_plan
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import render_plan
from prune2vec.profiling.profile import Profile
from tests.planning.made import curve_with_minima, made_profile, made_sections

CURVE = curve_with_minima(8, 2, 6)
PROFILE = made_profile(CURVE)
ORDER = PROFILE.sections["cut-loss"]["mlp_order"]
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
@given(curve=st.lists(st.floats(0.5, 5), min_size=8, max_size=8), budget=budgets())
def test_the_search_finds_the_least_predicted_loss_that_the_budget_admits(curve: list[float], budget: Budget) -> None:
    profile = made_profile(curve)
    guide = CutLoss.of(profile)
    order = profile.sections["cut-loss"]["mlp_order"]
    found = []
    for depth in range(1, 9):
        for mlps in range(depth):
            for width in WIDTHS:
                gone = [layer for layer in order if layer < depth][:mlps]
                kept = Kept.of(range(depth), drop_mlp=gone, width_cut=width)
                loss = guide.predicted(depth, mlps, width)
                if loss is not None and budget.allows(profile.shape, kept):
                    found.append((loss, profile.shape.params(kept), kept))
    plan = effir(profile, budget=budget)
    least = min(pair[:2] for pair in found)
    assert plan.kept in [kept for *pair, kept in found if tuple(pair) == least]
    assert f"predicted zero-shot loss {least[0]:.4f} against {guide.whole:.4f}" in notes(plan)


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


def test_of_equal_losses_the_smaller_one_is_taken() -> None:
    sections = made_sections([1.0] * 4)
    flat = {name: [[1.0] * 4 for _ in sections["cut-loss"][name]] for name in ("drop_loss", "width_loss")}
    profile = made_profile([1.0] * 4, sections={**sections, "cut-loss": {**sections["cut-loss"], **flat}})
    plan = effir(profile, budget=Budget(max_layers=3))
    assert (plan.keep_layers, plan.drop_mlp, plan.width_cut) == ((0,), (), Fraction(1, 2))


def test_everything_given_is_held_against_the_budget_and_needs_no_guide() -> None:
    bare = made_profile(CURVE, sections={"redundancy": PROFILE.sections["redundancy"]})
    asked = {"depth": "all", "mlps": 4, "width": "30%"}
    plan = effir(bare, budget=Budget(max_params=12000), **asked)
    assert plan.kept == effir(**asked).kept
    assert "not predicted: the profile has no cut-loss" in notes(plan)
    with pytest.raises(
        PlanError, match=r"^effir \(depth all, mlps 4, width 30%, .* over the budget: [\d,]+ parameters against"
    ):
        effir(bare, budget=Budget(max_params=9000), **asked)


def test_a_search_without_the_guide_says_how_to_measure_it() -> None:
    bare = made_profile(CURVE, sections={"redundancy": PROFILE.sections["redundancy"]})
    with pytest.raises(ProfileError, match=r"no cut-loss .* measure it with prune2vec profile --scorers redundancy,cut-loss$"):
        effir(bare, budget=Budget(max_params=12000))
    plain = made_profile(CURVE, sections={})
    with pytest.raises(ProfileError, match=r"no redundancy and no cut-loss .* --scorers redundancy,cut-loss$"):
        effir(plain, budget=Budget(max_params=12000))
    with pytest.raises(
        ProfileError, match=r"no redundancy-iterative and no cut-loss .* --scorers redundancy-iterative,cut-loss$"
    ):
        effir(plain, budget=Budget(max_params=12000), order="iterative")


def test_the_plan_says_what_to_expect() -> None:
    plan = effir()
    guide = CutLoss.of(PROFILE)
    params, whole = plan.shape.params(plan.kept), plan.shape.params(range(8))
    assert f"{params:,} of {whole:,} parameters" in notes(plan) and "x the speed by FLOPs" in notes(plan)
    assert f"predicted zero-shot loss {guide.predicted(8, 4, Fraction(3, 10)):.4f} against {CURVE[-1]:.4f}" in notes(plan)
    assert "it overstates what is lost after training" in notes(plan)
    assert "drops the MLP of layer 7, the last one" in notes(plan)
    assert "still to be cut with prune2vec slim" in render_plan(plan)


def test_a_prediction_from_another_order_is_called_rough() -> None:
    assert "in another order: the prediction is rough" in notes(effir(order="plain"))
    assert "another order" not in notes(effir())
    assert effir(order="plain").drop_mlp != effir().drop_mlp


def test_a_cut_beyond_what_was_measured_is_not_predicted_or_chosen() -> None:
    assert "cut-loss was not measured that far" in notes(effir(width="60%"))
    with pytest.raises(PlanError, match=r"^nothing to choose from: cut-loss was measured for up to 7 MLPs dropped and 50% of"):
        effir(width="60%", budget=Budget(max_params=12000))


def test_a_budget_that_nothing_meets_names_the_smallest_cut() -> None:
    least = PROFILE.shape.params(Kept.of([0], width_cut=Fraction(1, 2)))
    with pytest.raises(
        PlanError, match=rf"^the budget admits no cut of these: the smallest has {least:,} parameters in 1 layer "
    ):
        effir(budget=Budget(max_params=least - 1))
    assert effir(budget=Budget(max_params=least)).keep_layers == (0,)


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
    with pytest.raises(PlanError, match=r"^(mlps|width|depth)[^\n]+$"):
        effir(budget=budget, **given)


def test_the_only_layer_keeps_its_mlp() -> None:
    with pytest.raises(PlanError, match=r"^mlps: 2, but the only layer must keep its MLP; choose 0, or keep more layers$"):
        effir(depth=1, mlps=2)
    assert effir(depth=1, mlps=0).drop_mlp == ()


def test_a_model_without_known_neurons_keeps_its_width() -> None:
    shape = replace(PROFILE.shape, mlp_width=(), neuron_params=(), neuron_matmul_params=())
    blind = replace(PROFILE, shape=shape)
    plan = effir(blind, budget=Budget(max_params=9000))
    assert plan.width_cut == 0 and shape.params(plan.kept) <= 9000
    with pytest.raises(PlanError, match="neurons of its MLPs are not known"):
        effir(blind)
