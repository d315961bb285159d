from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import CheckpointError, ConfigError, EvaluationError, MissingExtra, Prune2vecError, TrainingError
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import run_recipe
from prune2vec.experiments.stages import Stages
from prune2vec.planning.plan import PruningPlan
from tests.experiments.small import VARIANTS, Run, SmallStages, recipe_values
from tests.tiny import save_tiny


def test_whole_run_writes_the_layout(run: Run) -> None:
    report, calls = run(small=SmallStages(full_report=True))
    built = [f"{stage} {name}" for name in VARIANTS for stage in ("prune", "train", "evaluate")]
    assert calls == ["profile", *built]
    for name in (
        "recipe.yaml",
        "profile.json",
        "profile.svg",
        "score.svg",
        "training.svg",
        "manifest.json",
        "report.md",
        "report.html",
    ):
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


@pytest.mark.parametrize("name", ["report.md", "recipe.yaml", "profile.svg"])
def test_what_the_user_wrote_into_a_run_is_kept(run: Run, name: str) -> None:
    run(small=SmallStages(full_report=True))
    (run.output / "notes.txt").write_text("mine")
    again = run(small=SmallStages(full_report=True))[1]
    assert again == [], "files beside those of the run are no hindrance"
    (run.output / name).write_text("mine")
    small = SmallStages()
    with pytest.raises(CheckpointError, match=rf"run/{name} was changed since prune2vec wrote it"):
        run(small=small, profile={"seed": 9})
    assert small.calls == [], "refused before work begins"
    assert (run.output / name).read_text() == (run.output / "notes.txt").read_text() == "mine"


def test_a_failed_run_leaves_only_what_the_next_goes_on_from(run: Run) -> None:
    class Failing(SmallStages):
        def __init__(self, stage: str) -> None:
            super().__init__()
            self._stage = stage

        def profile(self, *args: Any) -> None:
            if self._stage == "profile":
                raise TrainingError("no luck")
            super().profile(*args)

        def prune(self, *args: Any) -> None:
            raise TrainingError("no luck")

    with pytest.raises(TrainingError) as caught:
        run(small=Failing("profile"))
    assert not run.output.exists() and not list(run.folder.glob(".*")) and not hasattr(caught.value, "__notes__")
    with pytest.raises(TrainingError) as caught:
        run(small=Failing("prune"))
    assert caught.value.__notes__ == [f"{run.output} keeps the stages that are done, after which the same command resumes"]
    assert "profile" not in run()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "owner/name"}, "owner/name: config.json is not in the local cache"),
        ({"model": "empty"}, "empty is not a model folder"),
        ({"data": {"train": "owner/none", "dev": "dev.jsonl"}}, "cannot read owner/none"),
        ({"data": {"train": "train.jsonl", "dev": "owner/none"}}, "cannot read owner/none"),
        ({"train": {"teacher": "./empty"}}, r"empty is not an encoder: it has no modules\.json"),
        ({"evaluate": {"tasks": ["SciFcat"]}}, "no task is called 'SciFcat'"),
    ],
)
def test_what_cannot_be_found_is_refused_before_mining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "docs").mkdir()
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text('{"query": "a", "positive": "b", "negative": "c"}\n')
    small = SmallStages()
    recipe = {"model": "model", "data": {"mine": {"source": "docs"}}, "train": {"steps": 2}, **change}
    monkeypatch.setattr(small, "check", Stages().check)
    for dry_run in (False, True):
        with pytest.raises(Prune2vecError, match=message):
            run_recipe(recipe, "out", stages=small, dry_run=dry_run)
    assert small.calls == [] and not (tmp_path / "out").exists()
    run_recipe({**recipe, **dict.fromkeys(change), "data": {"mine": {"source": "docs"}}, "model": "model"}, "out", stages=small)


def test_manifest_has_what_a_repetition_needs(run: Run) -> None:
    run()
    manifest = json.loads((run.output / "manifest.json").read_text())
    assert manifest["model"]["fingerprint"] == "f"
    assert manifest["seeds"] == {"profile.seed": 42, "train.seed": 42, "evaluate.seed": 42}
    assert set(manifest["stages"]) == {
        "profile",
        *(f"{n}.{s}" for n in VARIANTS for s in ("plan", "prune", "train", "evaluate")),
    }
    assert {Path(source).name for source in manifest["data"]} == {"toy", "train.jsonl", "dev.jsonl"}
    assert manifest["environment"]["versions"]["torch"]
    assert Recipe.of(manifest["recipe"]) == Recipe.of(recipe_values(run.folder))


def test_written_recipe_does_the_same_run(run: Run) -> None:
    run()
    small = SmallStages()
    run_recipe(run.output / "recipe.yaml", run.output, stages=small)
    assert small.calls == []


def test_a_recipe_edited_meanwhile_does_not_hide_why_a_stage_failed(run: Run) -> None:
    class EditAndFail(SmallStages):
        def profile(self, *args: Any) -> None:
            (run.output / "recipe.yaml").write_text("mine: 1\n", encoding="utf-8")
            raise TrainingError("the first stage failed")

    with pytest.raises(TrainingError, match="the first stage failed"):
        run_recipe(recipe_values(run.folder), run.output, stages=EditAndFail())
    assert (run.output / "recipe.yaml").read_text(encoding="utf-8") == "mine: 1\n"
