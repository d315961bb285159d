"""Every depth of a language model, and the methods that choose what stays, side by side: one resumable sweep of ``prune2vec run``.

The whole model is trained once at all depths of --elastic (cells ``elastic-6``, ``elastic-full``); --alone are depths trained each in
a run of its own, for what that costs; --methods are compared at the parameters of --sizes, with each of --seeds. All cells have the
same rows, batches and steps, texts cut at --length tokens; evaluation cuts texts at 128. The profile is taken on --probe, the paper's
1,280 tuples. WORK holds everything that is made on the way: killed, the same command resumes, and a larger sweep keeps what is there.

    python benchmarks/depths.py --model smollm2 --data DATA --work runs/depths --out benchmarks/results/smollm2-depths.json \
        --elastic 3 6 9 12 15 18 21 24 27 --alone 6 12 18 24 --methods random reverse block-influence effir --sizes small large

DATA holds train/ (triplets, NAME.jsonl.gz), mteb/ (a folder a task) and probe-1280.jsonl.gz.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
from common import markdown_table, write_result

from prune2vec.experiments.run import run_recipe
from prune2vec.profiling.profile import Profile

TRAIN = ("allnli", "squad", "eli5_question_answer", "fever", "hotpot_qa", "nq", "quora_duplicates", "wiki_split")
TASKS = (
    *("STSBenchmark", "SICK-R", "STS17"),
    *("Banking77Classification", "EmotionClassification", "MassiveIntentClassification"),
    *("SciFact", "NFCorpus"),
)
SCORERS = ("layer-loss", "redundancy", "magnitude", "angular-distance")
LENGTH = 128


def recipe_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe: what is trained together, what alone, and the methods at each size."""
    together = [
        {"name": f"elastic-{depth}", "method": "depth", "parameters": {"depth": depth}, "trained_with": "elastic-full"}
        for depth in given.elastic
    ]
    # The largest comes first: the others are trained in its run.
    variants = [{"name": "elastic-full", "method": "full"}, *together] if together else []
    variants += [{"name": f"alone-{depth}", "method": "depth", "parameters": {"depth": depth}} for depth in given.alone]
    files = [str(given.data / "train" / f"{name}.jsonl.gz") for name in TRAIN]
    return {
        "model": given.model,
        "data": {"train": files, "profile": [str(given.data / "probe-1280.jsonl.gz")]},
        "profile": {"groups": given.groups, "group_size": 64, "max_length": given.length, "scorers": list(SCORERS)},
        "prune": {"max_length": given.length},
        "train": {
            "steps": given.steps,
            "batch_size": given.batch_size,
            "max_length": given.length,
            "learning_rate": given.learning_rate,
            "warmup_steps": given.steps // 10,
            "save_every": 50,
        },
        "evaluate": {"tasks": given.tasks, "mirror": str(given.data / "mteb"), "max_length": LENGTH},
        "variants": variants,
        "sweep": {"methods": ["full", *given.methods], "sizes": given.sizes, "seeds": given.seeds},
    }


def main() -> None:
    """Run what is missing, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--elastic", type=int, nargs="*", default=[], help="depths trained together with the whole model")
    parser.add_argument("--alone", type=int, nargs="*", default=[], help="depths trained each in a run of its own")
    parser.add_argument("--methods", nargs="*", default=[], help="planners to compare at each size")
    parser.add_argument("--sizes", nargs="+", default=["small", "large"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--length", type=int, default=48, help="longest text in profile and training, in tokens")
    parser.add_argument("--groups", type=int, default=20, help="groups of 64 tuples in the profile")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    given = parser.parse_args()
    given.data = given.data.resolve()
    report = run_recipe(recipe_of(given), given.work)
    rows = parquet.read_table(report.folder / "sweep.parquet").to_pylist()
    header = ("cell", "layers", "parameters", "documents/s", "loss", "minutes", "score", "difference", "verdict")
    shown = [
        (
            row["cell"],
            row["layers"],
            *(f"{row[name] * times:.{places}f}" if row[name] is not None else "" for name, times, places in COLUMNS),
            row["verdict"] or row["error"] or "",
        )
        for row in rows
    ]
    print(markdown_table(header, shown))
    told = ("steps", "batch_size", "learning_rate", "length", "seeds", "tasks")
    settings = {name: getattr(given, name) for name in told} | {"train": TRAIN, "max_length": LENGTH}
    curve = [round(loss, 4) for loss in Profile.load(report.folder / "profile.json").layer_loss.loss]
    table = {"header": header, "rows": shown}
    write_result(given.out, {"model": given.model, "layer_loss": curve, "rows": rows, "table": table, "settings": settings})


COLUMNS = (
    ("parameters", 1e-6, 1),
    ("documents_per_s", 1.0, 1),
    ("final_loss", 1.0, 3),
    ("train_seconds", 1 / 60, 1),
    ("score", 100.0, 2),
    ("difference", 100.0, 2),
)


if __name__ == "__main__":
    main()
