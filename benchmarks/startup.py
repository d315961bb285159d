"""How long the first answer takes: whole commands in processes of their own, of two versions of prune2vec in turns (A B B A).

Each version is a checkout, run by the interpreter of this script; --a may be left out. What is timed is the command from its start to
its end, imports and the loading of the encoder included, with warm disk caches: each command runs once before it counts.
Vectors to search in are random numbers, 200,000 rows of the encoder's dimension.

    git worktree add ../before REVISION
    python benchmarks/startup.py --a ../before --b . --encoder ENCODER --profile profile.json --out runs/startup.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import markdown_table, write_result

_ROWS, _PART = 200_000, 50_000
_TEXTS = (
    "how to cut a layer",
    "what a depth is",
    "where the vectors are",
    "which prompt a query gets",
    "when training resumes",
)


def made_in(folder: Path, encoder: Path, profile: Path) -> dict[str, list[str]]:
    """Write what the commands read into ``folder``, and return their words by name."""
    from prune2vec import encode, evaluate
    from prune2vec.encoding.store import Store

    one, vectors, held_out = folder / "one.txt", folder / "vectors", folder / "heldout.jsonl"
    one.write_text(f"{_TEXTS[0]}\n", encoding="utf-8")
    rows = [{"query": text, "positive": f"It is told here {text}."} for text in _TEXTS for _ in "ab"]
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    encode(encoder, one, vectors)
    store = replace(Store.load(vectors), parts=(), complete=False)
    generator = np.random.default_rng(0)
    for begin in range(0, _ROWS, _PART):
        numbers = generator.standard_normal((_PART, store.precision.dimension), dtype=np.float32)
        numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
        store = store.add([str(row) for row in range(begin, begin + _PART)], numbers)
    store.finish()
    evaluate(encoder, data=held_out, output=folder / "results.json", speed_texts=0)
    return {
        "--help": ["--help"],
        "plan": ["plan", str(profile), "--method", "depth", "--depth", "2", "-o", str(folder / "plan.json")],
        "compare": ["compare", str(folder / "results.json")],
        "encode one text": ["encode", str(encoder), str(one), "-o", str(folder / "encoded-{}")],
        f"search {_ROWS:,} vectors": ["search", str(vectors), _TEXTS[1]],
        "evaluate ten rows": ["evaluate", str(encoder), "--data", str(held_out), "--speed-texts", "0"],
    }


def made_by(checkout: Path, folder: Path, encoder: Path, profile: Path) -> dict[str, list[str]]:
    """Return ``made_in`` as a version's own code gives it: what the versions write differs."""
    folder.mkdir()
    places = [str(place) for place in (folder, encoder, profile)]
    code = f"import json, pathlib, startup; print(json.dumps(startup.made_in(*map(pathlib.Path, {places!r}))))"
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment_of(checkout, here), stdout=subprocess.PIPE, text=True, check=True
    )
    made: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return made


def environment_of(checkout: Path, *more: str) -> dict[str, str]:
    """Return the environment in which prune2vec is that of the checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout.resolve() / "src"), *more])}


def seconds_of(checkout: Path, words: list[str], number: int) -> float:
    """Run one command of a version and return what it took."""
    environment = environment_of(checkout)
    command = [sys.executable, "-m", "prune2vec", *(word.replace("{}", str(number)) for word in words)]
    begun = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} in {checkout}: {done.stderr}")
    return time.perf_counter() - begun


def main() -> None:
    """Time the commands and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--a", type=Path, help="checkout of the version before")
    parser.add_argument("--b", type=Path, required=True, help="checkout of the version after")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of an encoder")
    parser.add_argument("--profile", type=Path, required=True, help="profile of a model of two layers or more")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    sides = {name: checkout for name, checkout in (("a", given.a), ("b", given.b)) if checkout is not None}
    with tempfile.TemporaryDirectory() as scratch:
        commands = {
            side: made_by(checkout, Path(scratch) / side, given.encoder.resolve(), given.profile.resolve())
            for side, checkout in sides.items()
        }
        seconds: dict[str, dict[str, list[float]]] = {name: {side: [] for side in sides} for name in commands["b"]}
        number = 0
        for name in seconds:
            for turn in range(-1, given.rounds):
                for side in sides if turn % 2 == 0 else reversed(sides):
                    number += 1
                    took = seconds_of(sides[side], commands[side][name], number)
                    if turn >= 0:
                        seconds[name][side].append(took)
    middle = {name: {side: statistics.median(times) for side, times in of.items()} for name, of in seconds.items()}
    rows = [
        [name, *(f"{of[side]:.2f}" for side in sides), f"{of['b'] / of.get('a', of['b']):.2f}"] for name, of in middle.items()
    ]
    print(markdown_table(["command", *(f"{side}, s" for side in sides), "b / a"], rows))
    write_result(given.out, {"seconds": seconds, "rounds": given.rounds})


if __name__ == "__main__":
    main()
