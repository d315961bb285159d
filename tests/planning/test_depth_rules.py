from __future__ import annotations

import math
from fractions import Fraction

import pytest

from prune2vec.errors import ConfigError, PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.depth_rules import admitted, least_loss, prefix, spread
from prune2vec.planning.planner import Budget, make_plan
from prune2vec.planning.shares import parse_share
from tests.planning.made import made_profile


def test_least_loss_looks_at_the_depths_given_and_prefers_the_shallowest() -> None:
    profile = made_profile([1.0, 3.0, 2.0, 2.0])
    assert least_loss(profile, [2, 3, 4]) == 3
    assert least_loss(profile, [4, 3]) == 3


def test_admitted_counts_are_asked_with_real_layers() -> None:
    asked: list[tuple[int, ...]] = []

    def even(kept: Kept) -> bool:
        asked.append(kept.layers)
        return len(kept.layers) % 2 == 0

    assert admitted(made_profile([1.0] * 5), even, prefix) == [2, 4]
    assert asked == [tuple(range(count)) for count in range(1, 6)]


CURVE = [4.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_first_layers_are_kept(depth: int) -> None:
    plan = make_plan(made_profile(CURVE), method="depth", depth=depth)
    assert plan.keep_layers == tuple(range(depth))
    assert plan.parameters == {"depth": depth} and plan.notes == ()


@pytest.mark.parametrize("depth", [5, 10**4])
def test_a_depth_that_the_model_does_not_have_is_refused(depth: int) -> None:
    with pytest.raises(PlanError, match=rf"^depth {depth} is not possible: made has 4 layers; choose 1 to 4$"):
        make_plan(made_profile(CURVE), method="depth", depth=depth)


@pytest.mark.parametrize("depth", [0, -1, 2.5, "small", True, 10**5])
def test_what_is_no_number_of_layers_is_refused(depth: object) -> None:
    with pytest.raises(ConfigError, match=r"^planner 'depth': depth: [^\n]+$"):
        make_plan(made_profile(CURVE), method="depth", depth=depth)


def test_without_a_depth_the_profile_chooses_within_the_budget() -> None:
    plan = make_plan(made_profile(CURVE), method="depth", budget=Budget(max_layers=3))
    assert plan.keep_layers == (0, 1)
    assert plan.parameters == {"max_layers": 3}
    assert plan.notes == ("kept 2, the best of 1 to 3 layers by the loss of first layers",)


@pytest.mark.parametrize("budget", [None, Budget(), Budget(max_layers=9)])
def test_neither_a_depth_nor_a_budget_that_binds_is_refused(budget: Budget | None) -> None:
    with pytest.raises(PlanError, match=r"^give --depth \(1 to 4\), or a budget"):
        make_plan(made_profile(CURVE), method="depth", budget=budget)


@pytest.mark.parametrize(
    ("layers", "percent", "kept"),
    [(10, 0.9, 1), (32, 0.3, 22), (32, 0.99, 1), (40, 0.9, 4), (30, 0.9, 3), (32, 0, 32), (1, 0.5, 1)],
)
def test_the_depths_where_floats_or_the_papers_code_go_wrong(layers: int, percent: float, kept: int) -> None:
    plan = make_plan(made_profile([1.0] * layers), method="percent", percent=percent)
    assert plan.keep_layers == tuple(range(kept))


def test_every_two_digit_percent_is_the_exact_floor() -> None:
    for cents in range(100):
        shares = {parse_share(given) for given in (f"{cents}%", cents / 100, f"0.{cents:02d}")}
        assert shares == {Fraction(cents, 100)}
    profiles = [made_profile([1.0] * layers) for layers in (1, 2, 3, 10, 28, 30, 32, 77, 200)]
    for profile in profiles:
        layers = profile.shape.num_layers
        for cents in range(100):
            plan = make_plan(profile, method="percent", percent=f"{cents}%")
            assert len(plan.keep_layers) == max(1, layers * (100 - cents) // 100)


def test_plain_floats_would_have_failed_the_property() -> None:
    wrong = [
        (layers, cents)
        for layers in range(1, 201)
        for cents in range(100)
        if math.floor(layers * (1 - cents / 100)) != layers * (100 - cents) // 100
    ]
    assert (10, 90) in wrong and len(wrong) > 100


@pytest.mark.parametrize("percent", ["100%", "1", 1, 30, "-5%", -0.1, "abc", "", "%", "nan", "inf", "1/0", None])
def test_what_is_no_share_is_refused_in_one_line(percent: object) -> None:
    with pytest.raises(ConfigError, match=r"^planner 'percent': percent: [^\n]+$"):
        make_plan(made_profile([1.0] * 4), method="percent", percent=percent)


def test_the_recorded_parameter_makes_the_same_plan_again() -> None:
    profile = made_profile([1.0] * 32)
    plan = make_plan(profile, method="percent", percent=0.3)
    assert plan.parameters == {"percent": "30%"}
    assert make_plan(profile, method="percent", **plan.parameters) == plan


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


@pytest.mark.parametrize(("layers", "kept"), [(1, (5,)), (2, (0, 5)), (4, (0, 1, 2, 5)), (6, (0, 1, 2, 3, 4, 5))])
def test_the_deepest_go_but_the_last_stays(layers: int, kept: tuple[int, ...]) -> None:
    assert make_plan(made_profile([1.0] * 6), method="keep-last", layers=layers).keep_layers == kept


def test_prefix() -> None:
    assert prefix(3, 8) == (0, 1, 2)
