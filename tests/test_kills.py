"""SIGKILL at random moments of every long verb: the same call again ends like one that was left alone, and leaves no more.

Each verb is killed twelve times, sixty in all: ``python -m pytest -m slow tests/test_kills.py``.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from prune2vec.files import digest_file
from prune2vec.progress import set_enabled

ROOT = Path(__file__).parent.parent
KILLS = 12
# Taking longer than the work, they are done before it.
IMPORTS = (
    *("sentence_transformers", "peft", "datasets", "transformers.models.llama.modeling_llama", "transformers.trainer"),
    *("prune2vec.pruning.prune", "prune2vec.encoding.encode", "prune2vec.evaluation.evaluate", "prune2vec.experiments.run"),
    *("prune2vec.experiments.plots", "prune2vec.planning.planner", "prune2vec.profiling.measure", "prune2vec.training.slim"),
    *(
        "prune2vec.training.importances.learnt_gates",
        "prune2vec.training.train",
        "matplotlib.backends.backend_svg",
        "pytrec_eval",
    ),
)
TEXTS = {"max_length": 64, "dtype": "float32", "device": "cpu"}
TRAIN: dict[str, Any] = {**TEXTS, "steps": 12, "batch_size": 8, "save_every": 2}


def prune(folder: Path) -> None:
    from prune2vec.pruning.prune import prune_model

    prune_model(str(folder / "model"), folder / "plan.json", folder / "out", max_length=64)


def slim(folder: Path) -> None:
    from prune2vec.training.slim import slim_plan

    settings = {"steps": 12, "batch_size": 8, "save_every": 2, "warmup_steps": 0, "width_cut": 0.3, **TEXTS}
    slim_plan(str(folder / "model"), folder / "plan.json", folder / "texts.jsonl", output=folder / "out", **settings)


def train(folder: Path) -> None:
    from prune2vec.training.train import train_encoder

    train_encoder(folder / "encoder", folder / "texts.jsonl", folder / "out", **TRAIN)


def encode(folder: Path) -> None:
    from prune2vec.encoding.encode import encode_corpus

    encode_corpus(folder / "encoder", folder / "corpus.txt", folder / "out", part_rows=20, dtype="float32", device="cpu")


def run(folder: Path) -> None:
    from prune2vec.experiments.run import run_recipe

    texts = str(folder / "texts.jsonl")
    recipe = {
        "model": str(folder / "model"),
        "data": {"train": texts, "dev": texts},
        "profile": {"groups": 2, "group_size": 8, **TEXTS},
        "variants": [{"name": f"of-{depth}", "method": "depth", "parameters": {"depth": depth}} for depth in (3, 2)],
        "prune": {"max_length": 64},
        "train": {**TRAIN, "steps": 6},
        "evaluate": {"dtype": "float32", "device": "cpu", "speed_texts": 4, "speed_repeats": 1, "bm25": False},
    }
    run_recipe(recipe, folder / "out")


VERBS: dict[str, Callable[[Path], None]] = {verb.__name__: verb for verb in (prune, slim, train, encode, run)}


def result(verb: str, folder: Path) -> dict[str, Any]:
    """Return what a call came to, without times of day and durations, and the names of all that it left."""
    out = folder / "out"
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found: dict[str, Any] = {"names": [str(path.relative_to(folder)) for path in files]}
    timed = ("README.md", "prune2vec.json", "train.jsonl", ".prune2vec-files.json")
    if verb in ("prune", "train", "encode"):
        found |= {path.name: digest_file(path) for path in files if out in path.parents and path.name not in timed}
    elif verb == "slim":
        found["neurons"] = json.loads(out.read_text())["neurons"]
    else:
        for path in out.glob("*/*"):
            if path.name == "plan.json":
                found[str(path)] = digest_file(path)
            elif path.name == "results.json":
                found[str(path)] = json.loads(path.read_text())["score"]
            elif path.is_dir() and path.name in ("checkpoint", "encoder"):
                found[str(path)] = digest_file(path / "model.safetensors")
    return found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from prune2vec.data.triplet import write_triplets
    from tests.pruning.plans import plan_for
    from tests.tiny import save_tiny
    from tests.training.encoders import rows, save_tiny_encoder

    folder = tmp_path_factory.mktemp("inputs")
    model = save_tiny(folder / "model")
    plan_for(model, range(3)).save(folder / "plan.json")
    save_tiny_encoder(folder / "encoder")
    write_triplets(rows(64), folder / "texts.jsonl")
    (folder / "corpus.txt").write_text("".join(f"{row.anchor} {row.positive}\n" for row in rows(400)))
    return folder


@contextmanager
def served(verb: str, folder: Path) -> Iterator[Callable[[float], str]]:
    """Start a verb in ``folder`` and kill it after some seconds; returns ``killed`` or ``ended CODE``."""
    words = [sys.executable, "-m", "tests.test_kills", verb, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None and server.stdout is not None
        asked, answers = server.stdin, server.stdout

        def ask(seconds: float) -> str:
            print(seconds, file=asked, flush=True)
            return answers.readline().strip()

        yield ask
        asked.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", VERBS)
def test_killed_at_random(verb: str, inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    shutil.copytree(inputs, folder)
    moments, kills, calls = random.Random(verb), 0, 0
    with served(verb, folder) as call:
        for _ in range(2):  # The first call also pays for what the system keeps ready afterwards.
            remove_outputs(folder)
            begin = time.monotonic()
            assert call(600) == "ended 0"
            whole = time.monotonic() - begin
        expected = result(verb, folder)
        while kills < KILLS:
            remove_outputs(folder)
            calls += 1
            assert calls < 4 * KILLS, "too fast to be killed"
            moment = moments.uniform(0.02, whole)
            ended = call(moment)
            if ended == "killed":
                kills += 1
                left = len(list(folder.rglob("*"))) - len(list(inputs.rglob("*")))
                print(f"{verb}: killed after {moment:.2f} of {whole:.2f} s, {left} files and folders left")
                ended = call(600)
            assert ended == "ended 0"
            assert result(verb, folder) == expected
    print(f"{verb}: {kills} kills in {calls} calls of {whole:.1f} s")


def remove_outputs(folder: Path) -> None:
    for path in folder.glob("*out*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def serve(verb: str, folder: Path) -> None:
    """Read seconds from stdin; for each line start the verb in a process of its own and kill it after so many seconds.

    All are forked from this process, which has imported everything and never computes.
    """
    for name in IMPORTS:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            VERBS[verb](folder)
            os._exit(0)
        deadline = time.monotonic() + float(line)
        ended, status = 0, 0
        while not ended and time.monotonic() < deadline:
            time.sleep(0.002)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    set_enabled(False)
    serve(sys.argv[1], Path(sys.argv[2]))
