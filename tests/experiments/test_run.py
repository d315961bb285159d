from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import ConfigError, EvaluationError, MissingExtra
from prune2vec.records.plan import PruningPlan
from tests.experiments.small import VARIANTS, Run, SmallStages


def test_whole_run_writes_the_layout(run: Run) -> None:
    report, calls = run(small=SmallStages(full_report=True))
    built = [f"{stage} {name}" for name in VARIANTS for stage in ("prune", "train", "evaluate")]
    assert calls == ["profile", *built]
    for name in ("recipe.yaml", "profile.json", "profile.svg", "profile.png", "manifest.json", "report.md", "report.html"):
        assert (run.output / name).stat().st_size > 0
    for name in VARIANTS:
        for part in ("plan.json", "checkpoint/prune2vec.json", "encoder/train.jsonl", "results.json"):
            assert (run.output / name / part).stat().st_size > 0
    depths = {name: len(PruningPlan.load(run.output / name / "plan.json").keep_layers) for name in VARIANTS}
    assert depths == {"full": 12, "large": 10, "small": 3}
    assert report.comparison is not None
    assert [row.name for row in report.comparison.rows] == list(VARIANTS)
    assert "report.html" in report.render()


def test_second_run_does_nothing(run: Run) -> None:
    first, _ = run()
    again, calls = run()
    assert calls == []
    assert {step.outcome for step in again.steps} == {"skipped"}
    assert first.comparison is not None
    assert again.comparison is not None
    assert again.comparison.to_json() == first.comparison.to_json()


def test_dry_run_tells_and_writes_nothing(run: Run) -> None:
    report, calls = run(dry_run=True)
    assert calls == []
    assert not run.output.exists()
    assert {step.outcome for step in report.steps} == {"would run"}
    assert len(report.steps) == 1 + 3 + 9
    run()
    report, _ = run(dry_run=True, train={"steps": 5})
    outcomes = {step.name: step.outcome for step in report.steps}
    assert outcomes["small.prune"] == "skipped"
    assert outcomes["small.train"] == outcomes["small.evaluate"] == "would run"
    assert "changed: settings" in report.render()


def test_without_training_or_evaluation(run: Run) -> None:
    report, calls = run(train=None, evaluate=None)
    assert calls == ["profile", *(f"prune {name}" for name in VARIANTS)]
    assert report.comparison is None
    assert "**small** keeps" in (run.output / "report.md").read_text()
    _, calls = run(train=None)
    assert calls == [f"evaluate {name}" for name in VARIANTS]


def test_leftovers_of_a_killed_run_are_cleared(run: Run) -> None:
    run()
    (run.output / ".profile.json.partial-123").write_text("half")
    (run.output / "small" / ".encoder.partial-99").mkdir()
    (run.output / "small" / ".encoder.partial-99" / ".a.partial-99").write_text("half")
    (run.output / "small" / ".encoder.training").mkdir(exist_ok=True)
    (run.output / "small" / ".encoder.training" / ".state.json.partial-7").write_text("half")
    run()
    assert not list(run.output.glob("**/.*partial*"))


def test_what_late_stages_would_refuse_is_refused_first(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="'tensorbord' cannot be used"):
        run(train={"report_to": "tensorbord"})
    with pytest.raises(EvaluationError, match="no task is called 'SciFatc'"):
        run(evaluate={"tasks": ["SciFatc"]})
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingExtra, match=r"prune2vec\[eval\]"):
        run(evaluate={"tasks": ["SciFact"]}, dry_run=True)
    assert not run.output.exists()


def test_folder_in_use(run: Run) -> None:
    class Nested(SmallStages):
        def profile(self, model: str, texts: Any, settings: Any, output: Path) -> None:
            run()

    with pytest.raises(ConfigError, match="in use by another run"):
        run(small=Nested())
