"""What every planner must do; a new one gets these tests by being registered."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import render_plan
from prune2vec.planning.planner import Budget, make_plan, planners
from tests.planning.made import curve_with_minima, made_profile

METHODS = planners.names()
CURVE = curve_with_minima(9, 3, 7)
BUDGETS = [Budget(max_layers=4), Budget(max_params=9500), Budget(max_memory=8_410_000), Budget(min_speedup=1.7)]


def needed(method: str, *, layers: int = 2) -> dict[str, Any]:
    """Return values for the parameters without which a method does not know what to do."""
    if method == "drop":
        # Dropping MLPs alone obeys no limit on layers, so the depth does.
        return {"drop": "1M", "depth": min(4, layers) if layers > 1 else "all"}
    if method == "effir":
        return {}
    return {name: layers for name, field in planners.get(method).model_fields.items() if field.default is None}


@pytest.mark.parametrize("method", METHODS)
def test_deterministic(method: str) -> None:
    first, second = (make_plan(made_profile(CURVE), method=method, **needed(method)) for _ in range(2))
    assert first == second and first.digest == second.digest


@pytest.mark.parametrize("method", METHODS)
def test_json_round_trip(method: str, tmp_path: Path) -> None:
    plan = make_plan(made_profile(CURVE), method=method, budget=Budget(max_layers=8), **needed(method))
    plan.save(tmp_path / "plan.json")
    loaded = PruningPlan.load(tmp_path / "plan.json")
    assert loaded == plan and loaded.digest == plan.digest
    assert json.loads((tmp_path / "plan.json").read_text()) == plan.to_json()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", BUDGETS, ids=lambda budget: next(iter(budget.model_dump(exclude_none=True))))
def test_obeys_every_budget(method: str, budget: Budget) -> None:
    profile = made_profile(CURVE)
    assert budget.exceeded(profile.shape, tuple(range(9))), "the budget must bind for the test to say anything"
    plan = make_plan(profile, method=method, budget=budget, **needed(method, layers=9))
    assert not budget.exceeded(profile.shape, plan.kept)
    assert plan.parameters.items() >= budget.model_dump(exclude_none=True).items()


@pytest.mark.parametrize("method", METHODS)
def test_where_nothing_is_to_go_everything_stays(method: str) -> None:
    # L3Prune's large keeps all layers where the last depth is the best.
    profile = made_profile(curve_with_minima(9, 3, 9))
    nothing: dict[str, dict[str, Any]] = {
        "percent": {"percent": "0%"},
        "drop": {"drop": "0M0A"},
        "effir": {"mlps": 0, "width": "0%"},
    }
    plan = make_plan(profile, method=method, **nothing.get(method, needed(method, layers=9)))
    assert plan.keep_layers == tuple(range(9)) and plan.kept.whole_blocks
    assert plan.shape.params(plan.kept) == plan.shape.params(range(9))


def test_the_planner_that_the_documentation_adds_conforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "extending.md"
    code = page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    monkeypatch.setattr(planners, "_parts", dict(planners._parts))
    exec(compile(code, page.name, "exec"), {"__name__": "every_other"})
    assert make_plan(made_profile(CURVE), method="every-other", layers=5).keep_layers == (0, 2, 4, 6, 8)
    test_deterministic("every-other")
    test_json_round_trip("every-other", tmp_path)
    test_where_nothing_is_to_go_everything_stays("every-other")
    for budget in BUDGETS:
        test_obeys_every_budget("every-other", budget)


def test_what_a_planner_may_choose_is_recorded_whole() -> None:
    plans = {method: make_plan(made_profile(CURVE), method=method, **needed(method)) for method in METHODS}
    assert plans["drop"].drop_mlp and plans["effir"].drop_mlp and plans["effir"].width_cut
    assert all(plan.kept.whole_blocks for method, plan in plans.items() if method not in ("drop", "effir"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("loss", [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0]])
def test_two_layers_are_enough_and_the_plan_is_never_empty(method: str, loss: list[float]) -> None:
    plan = make_plan(made_profile(loss), method=method, **needed(method, layers=1))
    assert set() < set(plan.keep_layers) <= {0, 1}
    assert render_plan(plan)


@pytest.mark.parametrize("method", METHODS)
def test_does_not_change_the_profile(method: str) -> None:
    profile = made_profile(CURVE)
    before = profile.digest
    make_plan(profile, method=method, **needed(method))
    assert profile.digest == before


def test_planning_from_a_file_never_imports_torch(tmp_path: Path) -> None:
    made_profile(CURVE).save(tmp_path / "profile.json")
    jobs = [(method, needed(method)) for method in METHODS]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from prune2vec.planning.planner import Budget\n"
        "from prune2vec.planning.plan_view import render_plan\n"
        "from prune2vec.planning.planner import make_plan\n"
        f"for method, given in {jobs!r}:\n"
        "    plan = make_plan(Path(sys.argv[1]), method=method, budget=Budget(max_layers=5), output=Path(sys.argv[2]), **given)\n"
        "    render_plan(plan)\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'datasets', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    args = [str(tmp_path / "profile.json"), str(tmp_path / "plan.json")]
    done = subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
