"""An encoder cut to several sizes and taught its own vectors from plain text, beside the same cuts untaught; MTEB tasks of each.

One recipe for ``prune2vec run``, written into WORK: killed, the same command resumes. Plain texts are drawn from both sides of training
triplets; none of them is from an evaluated task. Documents are cut at 128 tokens, so scores compare the variants with each
other; those of the uncut model beside published ones show what that costs.

    python benchmarks/embedders.py --model all-MiniLM-L6-v2 --data DATA --work runs/minilm --out benchmarks/results/minilm.json \
        --depths 4 3 --texts 40000 --steps 1200

DATA holds train/ (triplets, NAME.jsonl.gz) and mteb/ (a folder a task).
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from common import markdown_table, write_result

from prune2vec.data.plain_texts import load_texts
from prune2vec.data.triplet import write_json_lines
from prune2vec.evaluation.results import Results
from prune2vec.experiments.run import run_recipe

TRAIN = ("allnli", "squad", "eli5_question_answer", "fever", "hotpot_qa", "nq", "quora_duplicates", "wiki_split")
PROFILE = ("allnli", "squad", "quora_duplicates")
TASKS = (
    *("STSBenchmark", "SICK-R", "STS17"),
    *("Banking77Classification", "EmotionClassification", "MassiveIntentClassification"),
    *("SciFact", "NFCorpus", "ArguAna"),
)
LENGTH, SEED = 128, 42


def recipe_of(given: argparse.Namespace, texts: Path) -> dict[str, Any]:
    """Return the recipe: the uncut encoder, and of each cut one that is taught and one that is as it was cut."""
    train = given.data / "train"
    taught = {
        "method": "full",
        "distil": "vectors",
        "steps": given.steps,
        "batch_size": 64,
        "max_length": given.length,
        "learning_rate": 1e-4,
        "schedule": "linear-to-zero",
        "warmup_steps": given.steps // 10,
        "save_every": 200,
        "seed": SEED,
    }
    variants: list[dict[str, Any]] = [{"name": "full", "method": "full"}]
    for depth in given.depths:
        cut = {"method": "depth", "parameters": {"depth": depth}}
        variants += [{"name": f"first-{depth}", **cut}, {"name": f"first-{depth}-untaught", **cut, "train": None}]
        if given.vocabulary:
            variants.append({"name": f"first-{depth}-{given.vocabulary}", **cut, "vocabulary": given.vocabulary})
    return {
        "model": str(given.model.resolve()),
        "data": {"texts": [str(texts)], "profile": [str(train / f"{name}.jsonl.gz") for name in PROFILE]},
        "profile": {"groups": 10, "group_size": 32, "max_length": given.length},
        "train": taught,
        "evaluate": {"tasks": given.tasks, "mirror": str(given.data / "mteb"), "max_length": LENGTH},
        "variants": variants,
    }


def main() -> None:
    """Run what is missing, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of an encoder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--depths", type=int, nargs="+", required=True, help="layers of the cuts")
    parser.add_argument("--vocabulary", help="cut each depth to this vocabulary as well: 16k, 99.9%%")
    parser.add_argument("--texts", type=int, default=40_000, help="plain texts to learn from")
    parser.add_argument("--steps", type=int, default=1200, help="training steps of 64 texts")
    parser.add_argument("--length", type=int, default=64, help="longest text in training, in tokens")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    given = parser.parse_args()
    given.data, given.work = given.data.resolve(), given.work.resolve()
    texts = given.work / "texts.jsonl.gz"
    if not texts.exists():
        given.work.mkdir(parents=True, exist_ok=True)
        found = load_texts([given.data / "train" / f"{name}.jsonl.gz" for name in TRAIN])
        distinct = sorted({one.text for one in found})
        chosen = random.Random(SEED).sample(distinct, min(given.texts, len(distinct)))
        write_json_lines(({"text": text} for text in chosen), texts)
    report = run_recipe(recipe_of(given, texts), given.work / "run")
    assert report.comparison is not None
    scores, rows = {}, []
    for row in report.comparison.rows:
        results = Results.load(given.work / "run" / (row.same_as or row.name) / "results.json")
        of_tasks = {task.name: task.score for task in results.tasks}
        scores[row.name] = {
            "tasks": of_tasks,
            "mean": sum(of_tasks.values()) / len(of_tasks),
            "parameters": results.size["parameters"],
            "texts_per_s": {side: speed["texts_per_s"] for side, speed in results.speed.items()},
        }
    base = scores["full"]["mean"]
    for name, of in scores.items():
        of["share"] = of["mean"] / base
        cells = [f"{of['tasks'][task] * 100:.1f}" for task in given.tasks]
        speed = [f"{of['texts_per_s'].get(side, 0):.0f}" for side in ("queries", "documents")]
        rows.append([name, f"{of['parameters'] / 1e6:.1f} M", *speed, *cells, f"{of['mean'] * 100:.1f}", f"{of['share']:.1%}"])
    header = ["encoder", "parameters", "queries/s", "documents/s", *given.tasks, "mean", "of full"]
    print(markdown_table(header, rows))
    about = {
        "texts": given.texts,
        "train": TRAIN,
        "steps": given.steps,
        "length": given.length,
        "max_length": LENGTH,
        "seed": SEED,
    }
    write_result(given.out, {"model": given.model.name, "variants": scores, "settings": about})


if __name__ == "__main__":
    main()
