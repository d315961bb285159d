"""Two processes on one output: one works, the other says so at once; and no verb writes over what is not ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prune2vec.encoding.store import MANIFEST
from prune2vec.outputs import RECORD
from prune2vec.planning.plan import PruningPlan
from tests.cli.conftest import Cli
from tests.experiments.small import results_of, shape

HOLDER = """
import sys
from pathlib import Path
from prune2vec.outputs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
# The command line of every verb that writes more than a single file, up to the output.
VERBS = {
    "demo": ["demo"],
    "run": ["run", "recipe.yaml"],
    "mine": ["mine", "documents"],
    "slim": ["slim", "model", "plan.json", "--width-cut", "30%", "--texts", "triplets.jsonl"],
    "prune": ["prune", "model", "plan.json"],
    "train": ["train", "encoder", "--data", "triplets.jsonl"],
    "encode": ["encode", "encoder", "triplets.jsonl"],
    "encode a shard": ["encode", "encoder", "triplets.jsonl", "--shard", "1/2"],
    "export": ["export", "encoder", "--target", "vllm"],
    "compare": ["compare", "results.json"],
}


@pytest.fixture
def inputs(tmp_path: Path, triplets_file: Path) -> set[str]:
    """Just enough for every verb to come to its output; returns what is there."""
    PruningPlan(model={"name": "toy", "fingerprint": "f"}, shape=shape(), keep_layers=(0, 1), method="depth").save(
        tmp_path / "plan.json"
    )
    for name, file in (("model", "config.json"), ("encoder", "modules.json"), ("documents", "one.md")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    results_of().save(tmp_path / "results.json")
    recipe = {"model": "model", "data": {"train": "triplets.jsonl", "dev": "triplets.jsonl"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    return set(os.listdir(tmp_path))


@pytest.fixture
def holder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A process that holds the output; its number."""
    target = tmp_path / ("out/shard-00001-of-00002" if "shard" in request.node.callspec.params["verb"] else "out")
    words = [sys.executable, "-c", HOLDER, str(target)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.stdin.close()


@pytest.mark.parametrize("verb", VERBS)
def test_one_writer_a_folder(verb: str, cli: Cli, tmp_path: Path, inputs: set[str], holder: int) -> None:
    ran = cli(*VERBS[verb], "-o", "out", "--quiet")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert f"is in use by another run (process {holder}); wait for it or stop it" in ran.err
    locks = {".out.lock"} if "shard" not in verb else {"out"}
    assert set(os.listdir(tmp_path)) == inputs | locks, "nothing was written"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize("name", ["thesis.txt", "prune2vec.json", "export.json", "mined.json", "recipe.yaml", RECORD])
@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("slim", "encode a shard")])
def test_a_folder_with_something_else_is_left_alone(
    verb: str, name: str, more: list[str], cli: Cli, tmp_path: Path, inputs: set[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    ran = cli(*VERBS[verb], "-o", "out", "--quiet", *more)
    assert ran.code == 1, ran.err
    assert ran.err.count("\n") == 1
    assert name in ran.err or "holds no vectors" in ran.err
    assert os.listdir(tmp_path / "out") == [name] and (tmp_path / "out" / name).read_text() == "{}"
    assert set(os.listdir(tmp_path)) == inputs | {"out"}


def test_a_recipe_is_never_written_over(cli: Cli, tmp_path: Path, inputs: set[str]) -> None:
    text = (tmp_path / "recipe.yaml").read_text()
    ran = cli("run", "recipe.yaml", "-o", ".")
    assert ran.code == 1 and "and no record that prune2vec wrote it" in ran.err
    assert (tmp_path / "recipe.yaml").read_text() == text and set(os.listdir(tmp_path)) == inputs


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("compare", "encode a shard", "demo")])
def test_a_call_that_fails_leaves_nothing(verb: str, cli: Cli, tmp_path: Path, inputs: set[str]) -> None:
    """Model, encoder and documents are empty shells, so every verb fails after it has begun."""
    ran = cli(*VERBS[verb], "-o", "deep/out", "--quiet")
    assert ran.code == 1, ran.err
    assert ran.err.count("\n") == 1
    assert set(os.listdir(tmp_path)) == inputs


def test_a_manifest_of_another_program_is_no_vectors(cli: Cli, tmp_path: Path, inputs: set[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_text('{"name": "my app"}')
    ran = cli("encode", "encoder", "triplets.jsonl", "-o", "out")
    assert ran.code == 1 and (tmp_path / "out" / MANIFEST).read_text() == '{"name": "my app"}'
