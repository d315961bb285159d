from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError, DataError, PlanError
from prune2vec.planning.budget import Budget
from prune2vec.planning.make_plan import make_plan, planner_parameters
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import Allowed, Choice, planners
from prune2vec.profiling.profile import Profile
from tests.planning.made import curve_with_minima, made_profile


def test_a_plan_carries_what_it_was_made_from(tmp_path: Path) -> None:
    profile = made_profile(curve_with_minima(8, 2, 6))
    plan = make_plan(profile, output=tmp_path / "plan.json")
    assert plan.model == profile.model and plan.shape == profile.shape
    assert plan.profile_digest == profile.digest
    assert PruningPlan.load(tmp_path / "plan.json") == plan


def test_a_path_serves_as_well_as_a_profile(tmp_path: Path) -> None:
    profile = made_profile(curve_with_minima(8, 2, 6))
    profile.save(tmp_path / "profile.json")
    assert make_plan(tmp_path / "profile.json") == make_plan(str(tmp_path / "profile.json")) == make_plan(profile)


def test_a_missing_profile_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read [^\n]+profile.json: No such file or directory$"):
        make_plan(tmp_path / "profile.json")


def test_a_method_or_parameter_with_a_typo_is_named() -> None:
    profile = made_profile([1.0, 2.0])
    with pytest.raises(ConfigError, match=r"^no planner is called 'l3prun'; did you mean 'l3prune'\?$"):
        make_plan(profile, method="l3prun")
    with pytest.raises(ConfigError, match=r"^planner 'depth' has no parameter 'dept'; did you mean 'depth'\?$"):
        make_plan(profile, method="depth", dept=1)


def test_parameters_and_defaults_are_read_from_the_planner() -> None:
    assert planner_parameters("l3prune") == {"variant": "large"}
    assert planner_parameters("depth") == {"depth": None}


def test_a_planner_that_ignores_the_budget_is_caught() -> None:
    name = "keeps-all-in-test-make"
    if name not in planners.names():

        @planners.register(name)
        def keeps_all(profile: Profile, allowed: Allowed) -> Choice:
            return Choice(keep=tuple(range(profile.shape.num_layers)))

    try:
        with pytest.raises(
            PlanError, match=r"^keeps-all-in-test-make is over the budget: 2 layers against at most 1; cut more, or loosen it$"
        ):
            make_plan(made_profile([1.0, 2.0]), method=name, budget=Budget(max_layers=1))
    finally:
        planners._parts.pop(name)
