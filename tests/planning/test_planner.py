from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError, DataError, PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import Budget, FitsBudget, Picked, Planner, make_plan, planners
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
    with pytest.raises(ConfigError, match=r"^planner 'depth': unknown key 'dept'; did you mean 'depth'\?$"):
        make_plan(profile, method="depth", dept=1)


def test_the_methods_of_the_issue_are_there() -> None:
    assert {"percent", "depth", "l3prune", "uniform", "keep-last", "drop", "effir"} <= set(planners.names())
    assert {"angular", "magnitude", "ablation", "block-influence", "reverse", "random"} <= set(planners.names())


def test_a_planner_that_ignores_the_budget_is_caught() -> None:
    name = "keeps-all-in-test-make"
    if name not in planners.names():

        @planners.register(name)
        class KeepsAll(Planner):
            """Keep all."""

            def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
                """Keep all."""
                return Picked(Kept.whole(range(profile.shape.num_layers)))

    try:
        with pytest.raises(
            PlanError, match=r"^keeps-all-in-test-make is over the budget: 2 layers against at most 1; cut more, or loosen it$"
        ):
            make_plan(made_profile([1.0, 2.0]), method=name, budget=Budget(max_layers=1))
    finally:
        planners._parts.pop(name)


def test_a_planner_without_a_pick_is_none() -> None:
    class Lazy(Planner):
        """Choose nothing."""

    with pytest.raises(TypeError, match=r"abstract method '?pick"):
        Lazy.build({}, where="here")
