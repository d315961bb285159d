"""EffiR against other cuts of one model at equal training: parts of SciFact, NFCorpus and ArguAna, and held-out triplets.

Every variant is cut from the same model by the same profile, trained on the same rows for the same steps and evaluated on
the same texts; what differs is what was dropped. Every step is skipped where its output is there, so the command can be
stopped and given again. Parts of the tasks are used (all relevant documents of the drawn queries and others drawn at
random), texts are short and steps few: the scores compare the variants with each other, and with nothing else.

python benchmarks/effir.py --data DATA --work runs/effir --out benchmarks/results/smollm2-effir.json

DATA holds train/ (triplets, NAME.jsonl.gz and NAME.dev.jsonl.gz) and mteb/ (BEIR folders).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prune2vec.data.beir import Retrieval, read_beir
from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import Triplet
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.results import Results
from prune2vec.files import read_json, write_json, write_text
from prune2vec.machine import describe
from prune2vec.models.kept import KINDS
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.profiling.profile import Profile, Redundancy, rank_correlation
from prune2vec.pruning.prune import prune_model
from prune2vec.training.slim import slim_plan
from prune2vec.training.train import train_encoder

TRAIN = ("squad", "fever", "bioasq", "squad_sentence")
HELD_OUT = ("squad_sentence", "fever", "bioasq", "wikiqa", "selqa")
TASKS = {"SciFact": (100, 400), "NFCorpus": (20, 400), "ArguAna": (100, 400)}  # queries, documents at least
ROWS, SEED = 400, 42
PLANS: dict[str, dict[str, Any]] = {
    "full": {"method": "depth", "depth": 30},
    "8M": {"method": "drop", "drop": "8M"},
    "16M": {"method": "drop", "drop": "16M"},
    "16A": {"method": "drop", "drop": "16A"},
    "8B": {"method": "drop", "drop": "8B"},
    "16B": {"method": "drop", "drop": "16B"},
    "first 18": {"method": "depth", "depth": 18},
    "first 15": {"method": "depth", "depth": 15},
    **{
        f"16M, width -{width} %": {"method": "effir", "depth": "all", "mlps": 16, "width": f"{width}%"}
        for width in (10, 20, 30)
    },
}
PRUNE: dict[str, Any] = {"pooling": "weightedmean", "max_length": 128}
TRAINING: dict[str, Any] = {
    "lora_rank": 32,
    "lora_alpha": 64,
    "learning_rate": 5e-4,
    "schedule": "cosine",
    "warmup_steps": 4,
    "batch_size": 16,
    "max_length": 64,
    "seed": SEED,
}


def main() -> None:
    """Run what is missing, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--gate-steps", type=int, default=24)
    parser.add_argument("--importance", default="gates")
    parser.add_argument("--only", default="", help="train and evaluate these variants only, by name, separated by semicolons")
    options = parser.parse_args()
    work: Path = options.work
    write_texts(options.data, work)
    if not (work / "profile.json").exists():
        profile_model(
            options.model,
            work / "train.jsonl",
            output=work / "profile.json",
            groups=4,
            max_length=128,
            scorers=("layer-loss", "redundancy", "redundancy-plain"),
            plain=work / "plain.txt",
            windows=8,
        )
    names = [name.strip() for name in options.only.split(";") if name.strip()] or list(PLANS)
    for name in names:
        build(name, options)
    # With --only, those that were made earlier are in the table too.
    done = [name for name in PLANS if (work / folder_name(name) / "held-out.json").exists()]
    rows = {name: row_of(work / folder_name(name)) for name in done}
    result = {
        "settings": {
            "steps": options.steps,
            "gate_steps": options.gate_steps,
            "importance": options.importance,
            "training": TRAINING,
        },
        "data": {"train": TRAIN, "held_out": HELD_OUT, "tasks": TASKS, "rows": ROWS, "seed": SEED},
        "redundancy": redundancy_of(work / "profile.json"),
        "variants": rows,
        "environment": describe(),
    }
    write_json(options.out, result)
    print_table(rows)


def build(name: str, options: argparse.Namespace) -> None:
    """Plan, slim, prune, train and evaluate one variant."""
    folder = options.work / folder_name(name)
    plan_file = folder / "plan.json"
    if not plan_file.exists():
        plan = make_plan(options.work / "profile.json", **PLANS[name])
        if plan.width_cut:
            slim(plan, plan_file, options)
        else:
            plan.save(plan_file)
    if not (folder / "encoder").exists():
        if not (folder / "checkpoint").exists():
            prune_model(options.model, plan_file, folder / "checkpoint", **PRUNE)
        train_encoder(folder / "checkpoint", options.work / "train.jsonl", folder / "encoder", steps=options.steps, **TRAINING)
    for task in (*TASKS, "held out"):
        data = options.work / "tasks" / task if task in TASKS else options.work / "held-out.jsonl"
        output = folder / f"{task.replace(' ', '-')}.json"
        if not output.exists():
            evaluate_encoder(folder / "encoder", data=data, output=output, speed_texts=0, max_length=96)


def slim(plan: PruningPlan, output: Path, options: argparse.Namespace) -> None:
    """Decide the width; the neurons are ranked once, whatever the share."""
    ranked = next(options.work.glob("*/plan.*.scores.safetensors"), None)
    if ranked is not None:
        slim_plan(options.model, plan, output=output, scores=ranked)
        return
    slim_plan(
        options.model,
        plan,
        options.work / "train.jsonl",
        output=output,
        importance=options.importance,
        steps=options.gate_steps,
        batch_size=16,
        max_length=64,
        seed=SEED,
    )


def folder_name(name: str) -> str:
    """Return the folder of a variant."""
    return name.replace(", width -", "-w").replace(" %", "").replace(" ", "-")


def write_texts(data: Path, work: Path) -> None:
    """Draw the training rows, the held-out rows, the running text and the parts of the tasks."""
    if (work / "tasks").exists():
        return
    rows = [row for name in TRAIN for row in draw(load_triplets(data / "train" / f"{name}.jsonl.gz"), ROWS, name)]
    write_rows(work / "train.jsonl", rows)
    held_out = [row for name in HELD_OUT for row in load_triplets(data / "train" / f"{name}.dev.jsonl.gz")]
    write_rows(work / "held-out.jsonl", held_out)
    passages = draw(load_triplets(data / "train" / "eli5_question_answer.jsonl.gz"), 400, "plain")
    write_text(work / "plain.txt", "\n\n".join(row.positive for row in passages))
    for task, (queries, documents) in TASKS.items():
        write_part(work / "part" / task, read_beir(data / "mteb" / task), queries, documents)
    (work / "part").rename(work / "tasks")


def draw(rows: Sequence[Triplet], count: int, seed: str) -> list[Triplet]:
    """Return ``count`` of the rows that have a negative."""
    usable = [row for row in rows if row.negatives]
    return random.Random(f"{SEED}:{seed}").sample(usable, min(count, len(usable)))


def write_rows(path: Path, rows: Iterable[Triplet]) -> None:
    """Write triplets as JSON lines."""
    lines = [
        json.dumps({"dataset": row.dataset, "query": row.anchor, "positive": row.positive, "negative": row.negatives[0]})
        for row in rows
        if row.negatives
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "\n".join(lines) + "\n")


def write_part(folder: Path, whole: Retrieval, queries: int, documents: int) -> None:
    """Write a part of a task as a BEIR folder: drawn queries, what answers them, and other documents."""
    generator = random.Random(f"{SEED}:{folder.name}")
    chosen = generator.sample(sorted(whole.queries), queries)
    texts = {whole.queries[query] for query in chosen}
    relevant = {document for query in chosen for document, score in whole.qrels[query].items() if score > 0}
    # A query of ArguAna is itself a document, and mteb does not count that one.
    others = [
        name for name in sorted(whole.corpus) if name not in relevant and name not in chosen and whole.corpus[name] not in texts
    ]
    corpus = sorted(relevant & set(whole.corpus)) + generator.sample(others, max(0, documents - len(relevant)))
    kept = set(corpus)
    judged = [(query, name, score) for query in chosen for name, score in sorted(whole.qrels[query].items()) if name in kept]
    (folder / "qrels").mkdir(parents=True)
    write_text(
        folder / "corpus.jsonl", "".join(json.dumps({"_id": name, "text": whole.corpus[name]}) + "\n" for name in corpus)
    )
    write_text(folder / "queries.jsonl", "".join(json.dumps({"_id": q, "text": whole.queries[q]}) + "\n" for q in chosen))
    table = ["query-id\tcorpus-id\tscore", *(f"{query}\t{name}\t{score}" for query, name, score in judged)]
    write_text(folder / "qrels" / "test.tsv", "\n".join(table) + "\n")


def redundancy_of(profile: Path) -> dict[str, Any]:
    """Return each kind's importance by layer on both kinds of text, and how alike the two orders are."""
    measured = Profile.load(profile)
    retrieval, plain = (Redundancy.from_json(measured.section(name)) for name in ("redundancy", "redundancy-plain"))
    return {
        kind: {
            "retrieval texts": [round(value, 5) for value in retrieval.row(kind)],
            "running text": [round(value, 5) for value in plain.row(kind)],
            "rank correlation": round(rank_correlation(retrieval.row(kind), plain.row(kind)) or 0.0, 3),
        }
        for kind in KINDS
    }


def row_of(folder: Path) -> dict[str, Any]:
    """Return what one variant came to."""
    plan = PruningPlan.load(folder / "plan.json")
    scores = {}
    for task in (*TASKS, "held-out"):
        scores[task] = round(Results.load(folder / f"{task}.json").retrieval["metrics"]["ndcg@10"], 4)
    training = read_json(folder / "encoder" / "prune2vec.json")["train"]
    return {
        "layers": len(plan.keep_layers),
        "drop_attention": list(plan.drop_attention),
        "drop_mlp": list(plan.drop_mlp),
        "kept_layers": list(plan.keep_layers),
        "widths": {str(layer): len(stay) for layer, stay in plan.neurons.items()},
        "params": plan.shape.params(plan.kept),
        "flops_ratio": round(plan.shape.flops_per_token(range(plan.num_layers)) / plan.shape.flops_per_token(plan.kept), 3),
        "ndcg@10": scores,
        "mean of tasks": round(statistics.fmean(scores[task] for task in TASKS), 4),
        "final_loss": round(training["final_loss"], 4),
    }


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print one row a variant."""
    columns = (*TASKS, "held-out")
    print(f"| variant | parameters | FLOPs | {' | '.join(columns)} | mean of the three |")
    print("| --- | ---: | ---: |" + " ---: |" * (len(columns) + 1))
    for name, row in rows.items():
        cells = " | ".join(f"{row['ndcg@10'][column]:.4f}" for column in columns)
        print(f"| {name} | {row['params'] / 1e6:.1f} M | 1/{row['flops_ratio']:.2f} | {cells} | {row['mean of tasks']:.4f} |")


if __name__ == "__main__":
    main()
