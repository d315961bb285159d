from __future__ import annotations

import pytest

from prune2vec.errors import PlanError
from prune2vec.planning.budget import Budget
from prune2vec.planning.make_plan import make_plan
from tests.planning.made import made_profile

CURVE = [4.0, 2.0, 3.0, 1.0]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_the_first_layers_are_kept(depth: int) -> None:
    plan = make_plan(made_profile(CURVE), method="depth", depth=depth)
    assert plan.keep_layers == tuple(range(depth))
    assert plan.parameters == {"depth": depth} and plan.notes == ()


@pytest.mark.parametrize("depth", [0, 5, -1])
def test_a_depth_that_the_model_does_not_have_is_refused(depth: int) -> None:
    with pytest.raises(PlanError, match=rf"^depth {depth} is not possible: made has 4 layers; choose 1 to 4$"):
        make_plan(made_profile(CURVE), method="depth", depth=depth)


@pytest.mark.parametrize("depth", [2.5, "3", True, 2.0])
def test_what_is_no_whole_number_is_refused(depth: object) -> None:
    with pytest.raises(PlanError, match=r"^depth: expected a whole number of 1 to 4, got [^\n]+$"):
        make_plan(made_profile(CURVE), method="depth", depth=depth)


def test_without_a_depth_the_profile_chooses_within_the_budget() -> None:
    plan = make_plan(made_profile(CURVE), method="depth", budget=Budget(max_layers=3))
    assert plan.keep_layers == (0, 1)
    assert plan.parameters == {"max_layers": 3}
    assert plan.notes == ("kept 2, the best of 1 to 3 layers by the profile",)


@pytest.mark.parametrize("budget", [None, Budget(), Budget(max_layers=9)])
def test_neither_a_depth_nor_a_budget_that_binds_is_refused(budget: Budget | None) -> None:
    with pytest.raises(PlanError, match=r"^give --depth \(1 to 4\), or a budget"):
        make_plan(made_profile(CURVE), method="depth", budget=budget)
