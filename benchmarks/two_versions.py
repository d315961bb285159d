"""Speed of two versions of prune2vec: profile, encode and train on the same model and texts, in turns (A B B A).

Each version is a checkout, run by the interpreter of this script in a process of its own that loads everything, does each job
once to warm up, and then waits for its turn. What is timed is one call of the public function, the model's loading included, but of
``train`` the training alone: as it counts itself. A ratio is the median of B's times over the median of A's; their spread stands beside it.

    git worktree add ../before REVISION
    python benchmarks/two_versions.py --a ../before --b . --texts triplets.jsonl.gz --out runs/two-versions.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from common import WarmVersion, markdown_table, write_result

JOBS = ("profile", "encode", "train")
_WORKER = """
import itertools, json, sys, time
from pathlib import Path

import prune2vec
from prune2vec import encode, plan, profile, prune, train

given = json.loads(sys.argv[1])
assert Path(prune2vec.__file__).is_relative_to(given["checkout"]), prune2vec.__file__
model, texts, folder = given["model"], given["texts"], Path(given["folder"])
measured = {"groups": given["groups"], "group_size": 16, "max_length": 128, "dtype": "float32"}
profile(model, texts, output=folder / "profile.json", **{**measured, "groups": 1})
plan(folder / "profile.json", method="depth", depth=given["depth"], output=folder / "plan.json")
prune(model, folder / "plan.json", folder / "small", max_length=128)
count = itertools.count()
taught = {"steps": given["steps"], "batch_size": 16, "max_length": 128, "dtype": "float32", "method": "full"}
jobs = {
    "profile": lambda: profile(model, texts, output=folder / "again.json", **measured),
    "encode": lambda: encode(folder / "small", given["corpus"], folder / f"vectors-{next(count)}"),
    "train": lambda: train(folder / "small", texts, folder / f"encoder-{next(count)}", **taught).seconds,
}
for job in given["jobs"]:
    jobs[job]()
print("@null", flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    made = jobs[line.strip()]()
    print("@" + json.dumps(made if line.strip() == "train" else time.perf_counter() - begun), flush=True)
"""


def main() -> None:
    """Time both versions and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--a", type=Path, required=True, help="checkout of the version before")
    parser.add_argument("--b", type=Path, required=True, help="checkout of the version after")
    parser.add_argument("--texts", type=Path, required=True, help="triplets")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--depth", type=int, default=6, help="layers of the encoder that encodes and is trained")
    parser.add_argument("--groups", type=int, default=16, help="groups of 16 triplets that are profiled")
    parser.add_argument("--rows", type=int, default=1000, help="texts that are encoded")
    parser.add_argument("--steps", type=int, default=16, help="training steps of 16 rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=JOBS)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        corpus = folder / "corpus.txt"
        write_corpus(given.texts, corpus, rows=given.rows)
        told = {
            "model": given.model,
            "texts": str(given.texts.resolve()),
            "corpus": str(corpus),
            **{name: getattr(given, name) for name in ("depth", "groups", "steps", "jobs")},
        }
        sides: dict[str, WarmVersion] = {}
        for name, checkout in (("a", given.a), ("b", given.b)):
            (folder / name).mkdir()
            sides[name] = WarmVersion(_WORKER, checkout, {**told, "folder": str(folder / name)})
        seconds: dict[str, dict[str, list[float]]] = {job: {"a": [], "b": []} for job in given.jobs}
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds}", file=sys.stderr, flush=True)
            for job in given.jobs:
                # Who goes first changes from round to round: the second one finds the machine warmer.
                for name in ("a", "b") if number % 2 == 0 else ("b", "a"):
                    seconds[job][name].append(sides[name].ask(job))
        for side in sides.values():
            side.close()
    rows = []
    for job, of in seconds.items():
        middle = {name: statistics.median(times) for name, times in of.items()}
        pairs = sorted(b / a for a, b in zip(of["a"], of["b"], strict=True))
        rows.append(
            [
                job,
                f"{middle['a']:.2f}",
                f"{middle['b']:.2f}",
                f"{middle['b'] / middle['a']:.3f}",
                f"{pairs[0]:.3f} to {pairs[-1]:.3f}",
            ]
        )
    print(markdown_table(["job", "a, s", "b, s", "b / a", "of single rounds"], rows))
    settings = {name: getattr(given, name) for name in ("model", "depth", "groups", "rows", "steps", "rounds")}
    write_result(given.out, {"jobs": seconds, "settings": settings})


def write_corpus(texts: Path, corpus: Path, *, rows: int) -> None:
    """Write the positives of the first triplets as documents, one a line."""
    from prune2vec.data.reader import load_triplets

    chosen = [" ".join(triplet.positive.split()) for triplet in load_triplets(str(texts))[:rows]]
    corpus.write_text("\n".join(chosen) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
