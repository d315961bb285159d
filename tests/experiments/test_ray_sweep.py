"""A sweep in shards on Ray: with a worker killed on a real one its table is that of one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prune2vec.errors import CheckpointError, ConfigError, TrainingError
from prune2vec.experiments import ray_sweep
from prune2vec.experiments.answers import load_answers
from prune2vec.experiments.ray_sweep import run_on_ray
from prune2vec.experiments.run import run_recipe
from tests.cli.conftest import Cli, cli
from tests.experiments.small import SmallStages, recipe_values
from tests.experiments.test_run_sweep import NAMES, SWEEP, Breaking, table

_ = cli
ROOT = Path(__file__).parent.parent.parent
# In a process of its own: Ray leaves sockets and threads behind that pytest would report.
KILLED = """
import os, signal, sys
from pathlib import Path
import ray
from prune2vec.experiments.ray_sweep import run_on_ray
from tests.experiments.small import SmallStages

recipe, output, marks = map(Path, sys.argv[1:])

class Dying(SmallStages):
    left = None

    def train(self, checkpoint, texts, settings, output, **kind):
        mark = marks / output.parent.name
        with mark.open("a") as file:
            file.write("x")
        if mark.name == "depth-50pct-s2" and mark.read_text() == "x":
            self.left = 3
        super().train(checkpoint, texts, settings, output, **kind)

    def _work(self):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
print(run_on_ray(recipe, output, shards=2, stages=Dying()).render())
ray.shutdown()
"""


def test_with_a_worker_killed_it_makes_the_table_of_one_run(tmp_path: Path) -> None:
    recipe, marks = tmp_path / "recipe.yaml", tmp_path / "marks"
    # JSON is YAML.
    recipe.write_text(json.dumps(recipe_values(tmp_path, sweep=SWEEP)))
    marks.mkdir()
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": paths}
    words = [sys.executable, "-c", KILLED, str(recipe), str(tmp_path / "run"), str(marks)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert f"report: {tmp_path / 'run' / 'comparison' / 'report.html'}" in done.stdout
    # Only the cell that was killed was begun twice.
    assert {mark.name: mark.read_text() for mark in marks.iterdir()} == {
        name: "xx" if name == "depth-50pct-s2" else "x" for name in NAMES
    }
    run_recipe(recipe, tmp_path / "whole", stages=SmallStages())
    assert table(tmp_path / "run" / "comparison") == table(tmp_path / "whole")
    assert (tmp_path / "run" / "comparison" / "sweep.md").read_text() == (tmp_path / "whole" / "sweep.md").read_text()


@pytest.fixture
def in_turn(monkeypatch: pytest.MonkeyPatch) -> list[int | str]:
    """Let every shard be done here, one after the other, on what would be two CPUs of a cluster; return the numbers asked for."""
    asked: list[int | str] = []

    def on_ray(function: Callable[..., Any], *work: Any, shards: int | str, retries: int, most: int) -> list[Any]:
        asked.append(shards)
        count = shards if isinstance(shards, int) else min(2, most)
        return [function(*work, f"{shard}/{count}") for shard in range(count)]

    monkeypatch.setattr(ray_sweep, "on_ray", on_ray)
    monkeypatch.setattr(ray_sweep, "set_enabled", lambda on: None)
    return asked


def swept(tmp_path: Path, stages: SmallStages | None = None, sweep: Any = SWEEP, queries: Any = (), **about: Any) -> Any:
    values = recipe_values(tmp_path, sweep=sweep, queries=list(queries))
    return run_on_ray(values, tmp_path / "run", stages=stages or SmallStages(), **about)


def test_as_many_shards_as_there_are_and_shards_made_by_hand_count(tmp_path: Path, in_turn: list[int | str]) -> None:
    run_recipe(recipe_values(tmp_path, sweep=SWEEP), tmp_path / "run", stages=SmallStages(), shard="2/3")
    again = SmallStages()
    report = swept(tmp_path, stages=again)
    assert in_turn == [3] and [row.name for row in report.comparison.rows] == NAMES
    assert not {call.split()[-1] for call in again.calls} & {name for place, name in enumerate(NAMES) if place % 6 in (2, 3)}
    run_recipe(recipe_values(tmp_path, sweep=SWEEP), tmp_path / "run", stages=SmallStages(), shard="0/2")
    with pytest.raises(ConfigError, match="holds shards of 2 and of 3; say how many there are to be, such as --ray 4"):
        swept(tmp_path)
    assert not swept(tmp_path, shards=2).failed and in_turn == [3, 2]


def test_a_recipe_without_a_sweep_keeps_its_order(tmp_path: Path, in_turn: list[int | str]) -> None:
    variants = [
        {"name": name, "method": "depth", "parameters": {"depth": depth}} for name, depth in (("z", 9), ("b", 6), ("a", 3))
    ]
    report = run_on_ray(recipe_values(tmp_path, variants=variants), tmp_path / "run", stages=SmallStages())
    assert in_turn == ["auto"] and [row.name for row in report.comparison.rows] == ["z", "b", "a"]
    assert not (tmp_path / "run" / "comparison" / "sweep.md").exists()


def test_a_shard_whose_cells_all_fail_stops_no_other_one(tmp_path: Path, in_turn: list[int | str]) -> None:
    sweep = {"methods": ["full", "depth"], "sizes": ["50%"]}
    # What the cell scored in an earlier run is no result of this one; and of nothing no queries are answered.
    assert not swept(tmp_path, None, sweep, shards=2).failed
    steps = {"train": {**recipe_values(tmp_path)["train"], "steps": 3}}
    values = recipe_values(tmp_path, sweep=sweep, queries=["how?"], **steps)
    breaking = Breaking("train", "depth-50pct", TrainingError("why"))
    report = run_on_ray(values, tmp_path / "run", stages=breaking, shards=2)
    assert report.failed and report.errors == {"depth-50pct": "why"}
    assert [answer.query for answer in report.answers] == ["how?"]
    rows = table(tmp_path / "run" / "comparison")
    assert [(row["cell"], row["score"] is None, row["error"]) for row in rows] == [
        ("full", False, None),
        ("depth-50pct", True, "why"),
    ]
    only = swept(tmp_path / "none", Breaking("train", "full", TrainingError("why")), {"methods": ["full"]})
    assert (only.errors, only.comparison, only.page) == ({"full": "why"}, None, None)
    assert only.render() == "full failed: why" and only.to_json()["report"] is None


def test_the_smallest_of_all_shards_answers(tmp_path: Path, in_turn: list[int | str]) -> None:
    stages = SmallStages()
    report = swept(tmp_path, stages, {"methods": ["full", "depth"], "sizes": ["50%"]}, queries=["how?"], shards=2)
    assert in_turn == [2] and [call for call in stages.calls if call.startswith("answer")] == [
        "answer full",
        "answer depth-50pct",
    ]
    assert list(report.answers) == load_answers(next((tmp_path / "run").glob("shard-*1-of-*2/answers.json")))


def test_a_page_that_was_changed_is_refused_before_the_work(tmp_path: Path, in_turn: list[int | str]) -> None:
    swept(tmp_path, shards=2)
    (tmp_path / "run" / "comparison" / "report.md").write_text("mine")
    stages = SmallStages()
    with pytest.raises(CheckpointError, match=r"report\.md"):
        swept(tmp_path, stages, shards=2)
    assert not stages.calls and in_turn == [2]


def test_what_cannot_be_is_refused_before_ray_starts(tmp_path: Path, cli: Cli) -> None:
    for shards in (0, -1, 11, "many"):
        with pytest.raises(
            ConfigError, match="shards: expected a number from 1 to 10, the number of variants that are trained apart, or auto"
        ):
            swept(tmp_path, shards=shards)
    (tmp_path / "run" / "comparison").mkdir(parents=True)
    (tmp_path / "run" / "comparison" / "mine.txt").touch()
    with pytest.raises(CheckpointError, match="holds mine"):
        swept(tmp_path, shards=2)
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe_values(tmp_path, sweep=SWEEP)))
    words = ("run", "recipe.yaml", "-o", "new", "--ray", "2")
    for other in (("--list",), ("--cell", "full-s1"), ("--shard", "0/2")):
        ran = cli(*words, *other)
        assert ran.code == 2 and "leave --list, --cell and --shard out" in ran.err
    assert cli("run", "recipe.yaml", "-o", "new", "--ray", "none").code == 2
    dry = cli(*words, "--dry-run", "--json")
    assert dry.code == 0 and dry.data["dry_run"] and not (tmp_path / "new").exists()
