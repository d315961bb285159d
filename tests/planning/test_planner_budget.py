from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ConfigError, PlanError
from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape
from prune2vec.planning.depth_rules import Layout, first_and_last, prefix, spread
from prune2vec.planning.planner import Budget, make_plan, planners
from prune2vec.profiling.profile import Profile
from tests.planning.made import curve_with_minima, made_profile, made_shape

LAYOUTS: dict[str, Layout] = {"uniform": spread, "keep-last": first_and_last}
WHOLE_LAYERS = [method for method in planners.names() if method not in ("drop", "effir")]
FIRST = ("depth", "percent", "l3prune")
ASKED: dict[str, dict[str, object]] = {"percent": {"percent": 0.25}, "l3prune": {"variant": "large"}}


def allows(budget: Budget, shape: ModelShape, keep: Iterable[int] | Kept) -> bool:
    return not budget.exceeded(shape, keep)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("90M", 90_000_000),
        ("1.5B", 1_500_000_000),
        ("4GB", 4 * 10**9),
        ("500 mb", 5 * 10**8),
        ("2GiB", 2**31),
        ("1e6", 10**6),
        ("7", 7),
    ],
)
def test_amounts(text: str, number: int) -> None:
    assert Budget.build({"max-params": text}, where="test").max_params == number


@pytest.mark.parametrize("text", ["90X", "-3", "1.2.3", "1.2.3M", "1e999", "1e308B", "", "M", "0", "0.2"])
def test_what_is_no_amount_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^test: max_params: [^\n]+$") as caught:
        Budget.build({"max_params": text}, where="test")
    assert str(caught.value).count("got") == 1


@pytest.mark.parametrize("limits", [{"max_layers": 0}, {"min_speedup": 0.5}, {"min_speedup": "inf"}, {"min_speedup": "nan"}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"^test: {next(iter(limits))}: Input should be "):
        Budget.build(limits, where="test")


def test_each_limit_is_met_exactly_at_its_value() -> None:
    shape = made_shape(4)
    keep = (0, 1)
    params, memory = shape.params(keep), shape.memory_bytes(keep)
    assert params == 5000 + 32 + 1000 + 1001
    assert memory == params * 2 + 8 * 16384 * 32 * 2
    assert allows(Budget(max_params=params), shape, keep) and not allows(Budget(max_params=params - 1), shape, keep)
    assert allows(Budget(max_memory=memory), shape, keep) and not allows(Budget(max_memory=memory - 1), shape, keep)
    assert allows(Budget(max_layers=2), shape, keep) and not allows(Budget(max_layers=1), shape, keep)
    speedup = shape.flops_per_token(range(4)) / shape.flops_per_token(keep)
    assert allows(Budget(min_speedup=speedup), shape, keep) and not allows(Budget(min_speedup=speedup + 1e-6), shape, keep)


def test_cuts_inside_blocks_are_counted_as_they_are() -> None:
    shape = made_shape(4)
    kept = Kept.of(range(4), drop_attention=(0,), drop_mlp=(3,), width_cut=Fraction(1, 4))
    params = 5000 + 32 + 4000 + 6 - 333 - (1003 - 333) - 45 * 10
    assert shape.params(kept) == params
    assert allows(Budget(max_params=params), shape, kept) and not allows(Budget(max_params=params - 1), shape, kept)
    speedup = shape.flops_per_token(range(4)) / shape.flops_per_token(kept)
    assert allows(Budget(min_speedup=speedup), shape, kept) and not allows(Budget(min_speedup=speedup + 1e-6), shape, kept)
    # A block that lost one of its sub-layers is still a layer; one that lost both is not.
    assert not allows(Budget(max_layers=3), shape, kept)
    assert allows(Budget(max_layers=3), shape, Kept.of(range(4), drop_attention=(3,), drop_mlp=(3,)))


def test_every_limit_that_is_not_met_is_named_with_what_it_would_need() -> None:
    shape = made_shape(4)
    speedup = shape.flops_per_token(range(4)) / shape.flops_per_token((0, 1))
    budget = Budget(max_params=7000, max_layers=1, max_memory=1000, min_speedup=3)
    assert budget.exceeded(shape, (0, 1)) == (
        "7,033 parameters against at most 7,000",
        "2 layers against at most 1",
        f"{shape.memory_bytes((0, 1)):,} bytes against at most 1,000",
        f"a speed-up of {speedup:.4g} against at least 3",
    )
    assert Budget(max_layers=2).exceeded(shape, iter([0, 1])) == ()


def test_only_set_limits_are_recorded() -> None:
    assert Budget().model_dump(exclude_none=True) == {}
    assert Budget(max_layers=3, min_speedup=1.5).model_dump(exclude_none=True) == {"max_layers": 3, "min_speedup": 1.5}


@pytest.mark.parametrize("method", planners.names())
def test_a_budget_below_one_layer_is_refused_in_one_line(method: str) -> None:
    with pytest.raises(PlanError, match=r"^the budget admits (not even one layer|no cut of)[^\n]+$"):
        make_plan(made_profile([1.0, 2.0, 3.0]), method=method, budget=Budget(max_params=10))


def kept_of(profile: Profile, method: str, layers: int) -> tuple[int, ...]:
    return make_plan(profile, method=method, layers=layers).keep_layers


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[float], Budget, int]:
    """Return a curve, a budget that admits at least one layer, and a count of layers to ask for."""
    loss = draw(st.lists(st.floats(0, 9, allow_nan=False), min_size=2, max_size=24))
    shape = made_shape(len(loss))
    size = draw(st.integers(1, len(loss)))
    # One layer of any layout fits: the last block is the largest.
    largest = (len(loss) - 1,)
    limit = draw(st.sampled_from(["max_layers", "max_params", "max_memory", "min_speedup"]))
    values = {
        "max_layers": size,
        "max_params": max(shape.params(range(size)), shape.params(largest)),
        "max_memory": max(shape.memory_bytes(range(size)), shape.memory_bytes(largest)),
        "min_speedup": min(
            shape.flops_per_token(range(len(loss))) / shape.flops_per_token(keep) for keep in (tuple(range(size)), largest)
        ),
    }
    return loss, Budget.build({limit: values[limit]}, where="test"), draw(st.integers(1, len(loss)))


@pytest.mark.parametrize("method", WHOLE_LAYERS)
@given(case=cases())
def test_the_pick_is_admitted_and_the_best_admitted_where_the_free_pick_is_not(
    method: str, case: tuple[list[float], Budget, int]
) -> None:
    loss, budget, count = case
    profile, total = made_profile(loss), len(loss)
    layout = LAYOUTS.get(method, prefix if method in FIRST else lambda n, total: kept_of(profile, method, n))
    asked = ASKED.get(method, {"depth" if method == "depth" else "layers": count})
    free = make_plan(profile, method=method, **asked).keep_layers
    plan = make_plan(profile, method=method, budget=budget, **asked)
    assert allows(budget, profile.shape, plan.keep_layers)
    if allows(budget, profile.shape, free):
        assert plan.keep_layers == free
        return
    admitted = [n for n in range(1, total + 1) if allows(budget, profile.shape, layout(n, total))]
    best = min(admitted, key=lambda n: loss[n - 1])
    assert plan.keep_layers == layout(best, total)
    assert "over the budget" in plan.notes[0] and f"kept {best}" in plan.notes[0]


def test_a_budget_that_cannot_be_met_is_told_in_its_own_unit() -> None:
    for limits, words in (
        ({"max_memory": 1000}, r"the smallest of those tried has [\d,]+ bytes against at most 1,000"),
        ({"min_speedup": 1000}, r"the smallest of those tried has a speed-up of [\d.]+ against at least 1000"),
        ({"max_params": 10}, r"the smallest of those tried has [\d,]+ parameters against at most 10"),
    ):
        for method in ("depth", "l3prune"):
            with pytest.raises(PlanError, match=words):
                make_plan(made_profile(curve_with_minima(8, 2, 6)), method=method, budget=limits)
