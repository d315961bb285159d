from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune2vec.errors import ConfigError, EvaluationError
from prune2vec.evaluation.results import METRICS, Results
from prune2vec.experiments.compare import compare_results
from tests.cli.conftest import Cli, cli
from tests.experiments.small import items_of, results_of
from tests.experiments.test_intervals import queries, task_score

_ = cli
VALUES = np.random.default_rng(0).random(300)
NOISE = np.random.default_rng(1).normal(0, 0.05, 300)
NOISE -= NOISE.mean()


def own(shift: float, *, digest: str = "d", items: bool = True, **changes: Any) -> Results:
    values = VALUES + shift + NOISE * (shift != 0)
    retrieval = {
        "data": {"source": f"{digest}.jsonl", "digest": digest, "queries": 300, "documents": 10},
        "metrics": dict.fromkeys(METRICS, float(values.mean())),
        **({"items": items_of(values)} if items else {}),
    }
    return results_of(retrieval=retrieval, **changes)


def saved(path: Path, results: Results) -> Path:
    results.save(path)
    return path


@pytest.mark.parametrize(
    ("shift", "max_drop", "lost"),
    [
        # The interval of a difference is about 0.6 points to both sides.
        (0.0, 0.0, False),
        (0.02, 0.0, False),
        (-0.02, 0.0, True),
        (-0.02, 0.5, True),
        (-0.02, 1.8, False),
        (-0.02, 3.0, False),
        (-0.003, 0.0, False),
    ],
)
def test_only_what_is_lost_beyond_the_interval_counts(tmp_path: Path, shift: float, max_drop: float, lost: bool) -> None:
    before, now = saved(tmp_path / "before.json", own(0.0)), saved(tmp_path / "now.json", own(shift))
    found = compare_results(now, gate=before, max_drop=max_drop)
    assert found.failed == lost == bool(found.losses)
    assert all(line in found.render() and line in found.to_markdown() for line in found.losses)
    assert found.to_json()["losses"] == list(found.losses)


def test_a_loss_says_which_settings_are_others(tmp_path: Path) -> None:
    before = saved(tmp_path / "before.json", own(0.0, settings={"max_length": 128}))
    now = saved(
        tmp_path / "now.json", own(-0.1, settings={"max_length": 8}, encoder={"path": "e", "record": {}, "max_length": 8})
    )
    (line,) = compare_results(now, gate=before).losses
    assert line.endswith("300 queries; max_length is 8, was 128)")


def test_a_loss_is_one_line_with_its_numbers(tmp_path: Path) -> None:
    before, now = saved(tmp_path / "before.json", own(0.0)), saved(tmp_path / "now.json", own(-0.1))
    (line,) = compare_results(now, gate=before, max_drop=0.5).losses
    assert line.startswith("now lost 10.00 points of nDCG@10, more than 0.5 (-0.1000; 95 % interval -0.10")
    assert line.endswith(", 300 queries)")


def test_the_program_ends_with_one(cli: Cli, tmp_path: Path) -> None:
    before, now = saved(tmp_path / "before.json", own(0.0)), saved(tmp_path / "now.json", own(-0.1))
    lost = cli("compare", now, "--gate", before, "--max-drop", "0.5")
    assert lost.code == 1
    assert "now lost " in lost.out and "error" not in lost.err
    assert cli("compare", now, "--gate", before, "--max-drop", "20").code == 0
    assert cli("compare", before, "--gate", now).code == 0
    assert cli("compare", now, "--gate", before, "--json").data["losses"]
    assert cli("compare", now, "--max-drop", "1").code == 2


def test_without_items_the_difference_itself_decides(tmp_path: Path) -> None:
    before, now = saved(tmp_path / "before.json", own(0.0, items=False)), saved(tmp_path / "now.json", own(-0.02))
    (line,) = compare_results(now, gate=before, max_drop=0.5).losses
    assert "; no interval: not both results hold" in line
    assert compare_results(now, gate=before, max_drop=3).losses == ()


def test_every_task_and_their_mean_are_looked_at(tmp_path: Path) -> None:
    def results(*shifts: float) -> Results:
        tasks = (
            task_score(name, queries(VALUES + shift, items=name), score=float((VALUES + shift).mean()))
            for name, shift in zip("ABC", shifts, strict=False)
        )
        return results_of(retrieval={}, tasks=tuple(tasks))

    before = saved(tmp_path / "before.json", results(0, 0))
    (line,) = compare_results(saved(tmp_path / "one.json", results(-0.02, 0.04)), gate=before, max_drop=0.5).losses
    assert line.startswith("one lost 2.00 points of A, more than 0.5")
    lines = compare_results(saved(tmp_path / "both.json", results(-0.02, -0.02)), gate=before).losses
    assert [line.split(" points of ")[1].split(",")[0] for line in lines] == ["A", "B", "mean of 2 of 2 tasks"]
    # A task more says nothing about what was there before.
    assert compare_results(saved(tmp_path / "more.json", results(0, 0, -1)), gate=before).losses == ()
    more = compare_results(saved(tmp_path / "both.json", results(-0.02, -0.02, 1)), gate=before).losses
    assert more == lines
    # Nor do own data beside the tasks, which have no part in their mean.
    both = [replace(own(0.0), tasks=given.tasks) for given in (results(0, 0), results(-0.02, -0.02))]
    with_own = compare_results(saved(tmp_path / "both.json", both[1]), gate=saved(tmp_path / "own.json", both[0])).losses
    assert list(with_own) == list(lines)


def test_a_run_is_compared_with_a_run_by_the_names_of_its_variants(tmp_path: Path) -> None:
    for run, shift in (("before", 0.0), ("now", -0.02)):
        saved(tmp_path / run / "full" / "results.json", own(0.0))
        saved(tmp_path / run / "small" / "results.json", own(shift))
    (line,) = compare_results(tmp_path / "now", gate=tmp_path / "before").losses
    assert line.startswith("small lost 2.")
    with pytest.raises(EvaluationError, match="holds no results of 'small', but of full; compare one results file with one"):
        compare_results(tmp_path / "now", gate=tmp_path / "before" / "full")
    (tmp_path / "now" / "full" / "results.json").unlink()
    gone, lost = compare_results(tmp_path / "now", gate=tmp_path / "before").losses
    assert gone == "full is missing now" and lost == line


def tasks_of(*names: str, **data: str) -> Results:
    tasks = tuple(replace(task_score(name, queries(VALUES, items=name)), data=data) for name in names)
    return results_of(retrieval={}, tasks=tasks)


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (
            own(0.0),
            own(0.0, digest="e"),
            r"the data are others \(300 queries, 10 .* of e\.jsonl, before 300 .* of d\.jsonl\)",
        ),
        (own(0.0), tasks_of("A"), r"the data are others \(none, before \d+ queries, \d+ documents of d\.jsonl\)"),
        (tasks_of("A", "B"), tasks_of("A"), "B is missing now"),
        (tasks_of("A", digest="1"), tasks_of("A", digest="2"), "the data of A are others"),
        (tasks_of("A", revision="1"), tasks_of("A", revision="2"), "the data of A are others"),
        (
            tasks_of("A"),
            results_of(retrieval={}, tasks=(task_score("A", queries(VALUES, items="others")),)),
            "the queries, pairs or texts of A are others",
        ),
        (results_of(retrieval={}), own(0.0), "the earlier results hold no score"),
    ],
)
def test_what_is_not_comparable_is_refused(tmp_path: Path, before: Results, now: Results, said: str) -> None:
    gate = saved(tmp_path / "before.json", before)
    with pytest.raises(EvaluationError, match=rf"now and .*before\.json are not comparable: {said}; evaluate on what"):
        compare_results(saved(tmp_path / "now.json", now), gate=gate)


def test_points_are_points(tmp_path: Path) -> None:
    before = saved(tmp_path / "before.json", own(0.0))
    for points in (-1.0, 101.0, float("nan")):
        with pytest.raises(ConfigError, match="expected points, from 0 to 100"):
            compare_results(before, gate=before, max_drop=points)
        with pytest.raises(ConfigError, match="expected points"):
            compare_results(before, max_drop=points)
