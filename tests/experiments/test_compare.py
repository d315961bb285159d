from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import CheckpointError, DataError, EvaluationError
from prune2vec.experiments.compare import compare_results, find_results
from prune2vec.files import digest_tree, write_json
from prune2vec.planning.plan import PruningPlan
from tests.experiments.small import Run, SmallStages, profile_of, results_of


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Two encoders evaluated by hand, each with its plan."""
    profile = profile_of()
    for name, depth, score in (("full", 12, 0.5), ("small", 3, 0.4)):
        plan = PruningPlan(model=profile.model, shape=profile.shape, keep_layers=tuple(range(depth)), method="depth")
        encoder = tmp_path / "encoders" / name
        plan.save(encoder / "plan.json")
        results_of(encoder, score=score).save(tmp_path / name / "results.json")
    return tmp_path


def test_reads_results_from_anywhere(elsewhere: Path) -> None:
    comparison = compare_results([elsewhere / "full" / "results.json", elsewhere / "small"])
    assert [(row.name, row.layers, row.score) for row in comparison.rows] == [
        ("full", "12 of 12", 0.5),
        ("small", "3 of 12", 0.4),
    ]
    assert comparison == compare_results([elsewhere])


def test_layers_from_the_record_when_there_is_no_plan(elsewhere: Path) -> None:
    record = {"keep_layers": [0, 1], "num_layers": 4}
    results_of("gone", encoder={"path": "gone", "record": record}).save(elsewhere / "alone.json")
    row = compare_results([elsewhere / "alone.json"]).rows[0]
    assert (row.name, row.layers, row.proportional_params) == ("alone", "2 of 4", None)


def test_a_plan_that_lies_beside_results_is_not_theirs(elsewhere: Path) -> None:
    profile = profile_of()
    other = PruningPlan(model=profile.model, shape=profile.shape, keep_layers=(0, 1), method="depth")
    for folder in (elsewhere, elsewhere / "full"):
        other.save(folder / "plan.json")
    record = {"keep_layers": [0, 1, 2], "num_layers": 4}
    results_of("gone", encoder={"path": "gone", "record": record}).save(elsewhere / "cut.json")
    results_of("nowhere").save(elsewhere / "whole.json")
    rows = compare_results([elsewhere / "cut.json", elsewhere / "whole.json", elsewhere / "full"]).rows
    assert [row.layers for row in rows] == ["3 of 4", "", "12 of 12"]
    # In a run it is: its folder says so.
    (elsewhere / "stamps").mkdir()
    (elsewhere / "recipe.yaml").write_text("variants: [{name: small}, {name: full}]\n")
    stages = {f"{name}.evaluate": {"key": name} for name in ("small", "full")}
    write_json(elsewhere / "manifest.json", {"stages": stages, "same_layers_as": {}})
    about = {"format": "prune2vec.stamp/1", "inputs": {}, "output": {}, "seconds": 1.0, "finished": "today"}
    for stage, key in stages.items():
        write_json(elsewhere / "stamps" / f"{stage}.json", {**about, "stage": stage, **key})
    assert [(row.name, row.layers) for row in compare_results(elsewhere).rows] == [("small", "3 of 12"), ("full", "2 of 12")]


def test_writes_table_and_page(elsewhere: Path) -> None:
    comparison = compare_results([elsewhere], output=elsewhere / "report")
    assert json.loads((elsewhere / "report" / "comparison.json").read_text()) == comparison.to_json()
    assert "| small | 3 of 12 |" in (elsewhere / "report" / "report.md").read_text()
    page = (elsewhere / "report" / "report.html").read_text()
    assert "small keeps 3 of 12 layers" in page
    assert page.count("<svg") == 2
    assert "http" not in page


def test_only_its_own_files_are_written_over(elsewhere: Path) -> None:
    for _ in range(2):
        compare_results([elsewhere / "full"], output=elsewhere / "report")
    (elsewhere / "report" / "report.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"report/report\.md was changed since prune2vec wrote it"):
        compare_results([elsewhere / "full"], output=elsewhere / "report")
    before = digest_tree(elsewhere / "encoders")
    with pytest.raises(CheckpointError, match="it holds full, and no record"):
        compare_results([elsewhere / "full"], output=elsewhere / "encoders")
    assert (elsewhere / "report" / "report.md").read_text() == "mine" and digest_tree(elsewhere / "encoders") == before


def test_not_results(elsewhere: Path) -> None:
    (elsewhere / "other.json").write_text("{}")
    with pytest.raises(EvaluationError, match="not a results file"):
        compare_results([elsewhere / "other.json"])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("one/full", "one/small", "two/full"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text("{}")
    (tmp_path / "mine.json").write_text("{}")
    return tmp_path


def test_files_folders_and_runs(runs: Path) -> None:
    found = find_results([runs / "mine.json", runs / "one", runs / "two" / "full"])
    assert found == {
        "mine": runs / "mine.json",
        "one/full": runs / "one" / "full" / "results.json",
        "small": runs / "one" / "small" / "results.json",
        "two/full": runs / "two" / "full" / "results.json",
    }


def test_names_are_as_short_as_can_be(runs: Path) -> None:
    assert list(find_results([runs / "one"])) == ["full", "small"]
    assert list(find_results([runs / "one" / "full", runs / "two" / "full"])) == ["one/full", "two/full"]
    assert list(find_results([runs / "mine.json", runs / "one" / "small" / "results.json"])) == ["mine", "small"]


def test_a_file_and_a_folder_of_one_name_are_two(runs: Path) -> None:
    (runs / "one" / "full.json").write_text("{}")
    (runs / "one" / "full.txt").write_text("{}")
    given = [
        runs / "one" / "full.json",
        runs / "one" / "small" / "results.json",
        runs / "one" / "full",
        runs / "one" / "full.txt",
    ]
    found = find_results(given)
    assert list(found) == ["full.json", "small", "full", "full.txt"]
    assert list(found.values()) == [*given[:2], runs / "one" / "full" / "results.json", given[3]]


def test_same_file_counts_once(runs: Path) -> None:
    assert len(find_results([runs / "one", runs / "one" / "full"])) == 2


def test_nothing_there(runs: Path) -> None:
    (runs / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no results\.json"):
        find_results([runs / "empty"])
    with pytest.raises(DataError, match="does not exist"):
        find_results([runs / "none"])
    with pytest.raises(DataError, match="nothing to compare"):
        find_results([])


def test_results_of_an_encoder_that_was_made_anew_are_left_out(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    assert set(find_results([run.output])) == {"full", "large", "small"}
    run(train={"steps": 4, "learning_rate": 0.01}, evaluate=None)
    capsys.readouterr()
    with pytest.raises(DataError, match=r"run has no results of its recipe; run it again"):
        find_results([run.output])
    assert "left out are results of an earlier recipe: full, large, small; run it again" in capsys.readouterr().err
    run(train={"steps": 4, "learning_rate": 0.01})
    assert set(find_results([run.output])) == {"full", "large", "small"}


class Stopped(SmallStages):
    """Stages that are stopped before one of them."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def _stop(self, stage: str, output: Path) -> None:
        if f"{stage} {output.parent.name}" == self._stage:
            raise KeyboardInterrupt

    def prune(self, model: str, plan: Path | int, settings: Any, output: Path) -> None:
        self._stop("prune", output)
        super().prune(model, plan, settings, output)

    def train(self, checkpoint: Path, texts: Any, settings: Any, output: Path, *, plain: bool = False) -> None:
        self._stop("train", output)
        super().train(checkpoint, texts, settings, output, plain=plain)


@pytest.mark.parametrize(
    ("before", "edited", "kept"),
    [
        ("prune half", {"depth": 7}, ["full"]),
        ("train half", {"depth": 7}, ["full"]),
        ("train half", {"steps": 5}, ["full", "half"]),
        ("prune half", {"steps": 5, "trained_with": "full"}, ["full"]),
    ],
)
def test_of_a_run_that_was_edited_and_stopped(
    run: Run, capsys: pytest.CaptureFixture[str], before: str, edited: dict[str, Any], kept: list[str]
) -> None:
    trainer = edited.pop("trained_with", None)

    def values(depth: int = 6, steps: int = 4) -> dict[str, Any]:
        half = {"name": "half", "method": "depth", "parameters": {"depth": depth}, "trained_with": trainer}
        return {"variants": [{"name": "full", "method": "full"}, half], "train": {"steps": steps}}

    run(**values())
    with pytest.raises(KeyboardInterrupt):
        run(small=Stopped(before), **values(**edited))
    capsys.readouterr()
    assert [row.name for row in compare_results(run.output).rows] == kept
    assert "run is not finished: what its recipe has changed since may not be in its results" in capsys.readouterr().err
    run(**values(**edited))
    capsys.readouterr()
    assert [row.name for row in compare_results(run.output).rows] == ["full", "half"]
    assert "not finished" not in capsys.readouterr().err


def test_a_teacher_is_known_by_an_uncut_copy_of_it(elsewhere: Path) -> None:
    full = PruningPlan.load(elsewhere / "encoders" / "full" / "plan.json")
    learnt = {"steps": 1, "seconds": 1.0, "settings": {"teacher": full.model["name"]}, "identity": {"teacher": "d"}}
    encoder = {"path": str(elsewhere / "encoders" / "small"), "digest": "s", "record": {"train": learnt}}
    results_of("small", score=0.4, encoder=encoder).save(elsewhere / "small" / "results.json")
    for attention, teacher in (("causal", "full"), ("bidirectional", None)):
        copy = {"path": str(elsewhere / "encoders" / "full"), "digest": "f", "record": {"attention": attention}}
        results_of("full", score=0.5, encoder=copy).save(elsewhere / "full" / "results.json")
        rows = compare_results([elsewhere / "full", elsewhere / "small"]).rows
        assert [row.teacher for row in rows] == [None, teacher]


def test_what_was_cut_out_of_a_taught_encoder_has_its_teacher(tmp_path: Path) -> None:
    learnt = {"steps": 1, "seconds": 1.0, "depths": [2, 5], "settings": {}, "identity": {"teacher": "b"}}
    cut = {"model": {"name": "/run/whole/"}, "num_layers": 5}
    for name, record in (
        ("big", {}),
        ("whole", {"train": learnt}),
        ("at-2", {**cut, "keep_layers": [0, 1]}),
        ("at-3", {**cut, "keep_layers": [0, 1, 2]}),
        ("last-2", {**cut, "keep_layers": [3, 4]}),
        ("no-mlp", {**cut, "keep_layers": [0, 1], "drop_mlp": [1]}),
    ):
        encoder = {"path": f"/run/{name}", "digest": name[0], "record": record}
        results_of(name, encoder=encoder).save(tmp_path / f"{name}.json")
    rows = compare_results([tmp_path / f"{name}.json" for name in ("big", "whole", "at-2", "at-3", "last-2", "no-mlp")]).rows
    assert [row.teacher for row in rows] == [None, "big", "big", None, None, None]


def test_a_teacher_is_known_by_the_digest_in_the_pupils_record(tmp_path: Path) -> None:
    for name, digest, teacher, score in (("big", "b", None, 0.8), ("small", "s", "b", 0.6), ("stranger", "x", "gone", 0.7)):
        record = {"train": {"steps": 1, "seconds": 1.0, "settings": {"teacher": "./b"}, "identity": {"teacher": teacher}}}
        results_of(name, score=score, encoder={"path": name, "digest": digest, "record": record}).save(
            tmp_path / f"{name}.json"
        )
    results_of("unknown").save(tmp_path / "unknown.json")
    comparison = compare_results([tmp_path / f"{name}.json" for name in ("small", "big", "stranger", "unknown")])
    assert [row.teacher for row in comparison.rows] == ["big", None, None, None]
    assert comparison.share_of_teacher(comparison.rows[0]) == pytest.approx(0.75)
