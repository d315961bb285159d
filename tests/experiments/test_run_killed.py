"""A run that is killed at random moments and started again ends like one that was not."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from prune2vec.experiments.run import run_recipe
from prune2vec.files import digest_tree, write_text
from tests.experiments.small import VARIANTS, SmallStages, recipe_values

ROOT = Path(__file__).parent.parent.parent

PAUSE = 0.02
WHOLE_RUN = 2.0


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    # JSON is YAML.
    write_text(tmp_path / "recipe.yaml", json.dumps(recipe_values(tmp_path, queries=["how?"])))
    return tmp_path / "recipe.yaml"


@pytest.fixture
def start(recipe: Path, tmp_path: Path) -> Iterator[Callable[[float], str]]:
    """Start the run and kill it after some seconds; returns ``killed`` or ``ended CODE``."""
    command = [sys.executable, "-m", "tests.experiments.small", str(recipe), str(tmp_path / "killed"), str(PAUSE)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(seconds: float) -> str:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(f"{seconds}\n")
            server.stdin.flush()
            return server.stdout.readline().strip()

        yield ask
        server.stdin.close()


def outputs(run: Path) -> dict[str, str]:
    """Return the digest of every output that is there; a half-written one has another digest, or none."""
    names = [
        "profile.json",
        "answers.json",
        *(f"{v}/{part}" for v in VARIANTS for part in ("plan.json", "checkpoint", "encoder")),
    ]
    return {name: digest_tree(run / name) for name in names if (run / name).exists()}


def scores(run: Path) -> dict[str, float]:
    return {name: json.loads((run / name / "results.json").read_text())["score"] for name in VARIANTS}


@pytest.mark.parametrize("seed", [1, 2])
def test_same_plans_and_metrics_after_kills(seed: int, recipe: Path, tmp_path: Path, start: Callable[[float], str]) -> None:
    reference = tmp_path / "whole"
    run_recipe(recipe, reference, stages=SmallStages())
    expected = outputs(reference)
    assert len(expected) == 2 + 9
    moments = random.Random(seed)
    kills = 0
    for _ in range(12):
        kills += start(moments.uniform(0.02, WHOLE_RUN / 4)) == "killed"
        found = outputs(tmp_path / "killed")
        assert found == {name: expected[name] for name in found}, "an output is there, but not whole"
    assert kills >= 2
    assert start(120) == "ended 0"
    assert outputs(tmp_path / "killed") == expected
    assert scores(tmp_path / "killed") == scores(reference)
    assert not list((tmp_path / "killed").glob("**/.*partial*"))


def test_a_sweep_makes_the_same_table_after_kills(recipe: Path, tmp_path: Path, start: Callable[[float], str]) -> None:
    write_text(
        recipe, json.dumps(recipe_values(tmp_path, sweep={"methods": ["full", "depth"], "sizes": ["50%"], "seeds": [1, 2]}))
    )
    run_recipe(recipe, tmp_path / "whole", stages=SmallStages())
    moments = random.Random(3)
    kills = sum(start(moments.uniform(0.02, WHOLE_RUN / 4)) == "killed" for _ in range(4))
    assert kills >= 2 and start(120) == "ended 0"
    for name in ("sweep.parquet", "sweep.md", "sweep.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_finished_run_is_not_done_again_after_a_kill(recipe: Path, tmp_path: Path, start: Callable[[float], str]) -> None:
    assert start(120) == "ended 0"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/*") if path.is_file()}
    start(0.03)
    small = SmallStages()
    run_recipe(recipe, tmp_path / "killed", stages=small)
    assert small.calls == []
    assert {path: path.stat().st_mtime_ns for path in before} == before
