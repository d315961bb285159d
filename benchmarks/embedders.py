"""An encoder cut to several sizes and taught its own vectors from plain text, beside the same cuts taught otherwise; MTEB tasks of each.

A cell is a way to cut, a depth, a vocabulary and a way to teach: ``first-6-32k`` keeps the first 6 layers and 32k tokens and learns
the uncut encoder's vectors, ``first-6-32k-untaught`` is the same cut as it is, ``first-6-32k-contrastive`` the same trained on
triplets alone, a third as many steps because a row has three texts, ``first-6-32k-adapters`` learns the vectors with the defaults of
``train`` (LoRA, twice the rate, three tenths of the steps as warm-up), ``first-6-32k-head`` with a linear head more,
``first-6-32k-2e-4`` at that learning rate. ``uniform-6`` keeps layers at an even stride, ``fit-6`` those that the scorer linear-fit
prefers, ``full-32k`` all of them and fewer tokens. All of it is one recipe for ``prune2vec run``, written into WORK:
killed, the same command resumes. --jobs processes share the machine, a GPU for example; speeds are measured once all is done,
one encoder after the other.

Texts are drawn from both sides of training triplets; none of them is from an evaluated task. Texts are cut at 128 tokens
in the evaluation, so scores compare the cells with each other; those of the uncut encoder beside published ones show what that costs.

    python benchmarks/embedders.py --model all-MiniLM-L6-v2 --data DATA --work runs/minilm --out benchmarks/results/minilm.json \
        --cells first-4 first-3 uniform-3 first-4-untaught first-3-untaught first-3-contrastive first-3-16k

DATA holds train/ (triplets, NAME.jsonl.gz) and mteb/ (a folder a task).
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path
from typing import Any

from common import write_result
from side_by_side import run_side_by_side

from prune2vec.data.plain_texts import load_texts
from prune2vec.data.triplet import write_json_lines
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import load_for_evaluation
from prune2vec.evaluation.results import Results
from prune2vec.evaluation.speed import measure_cost
from prune2vec.experiments.comparison import TextTable
from prune2vec.files import read_json, write_json
from prune2vec.profiling.profile import Profile
from prune2vec.pruning.encoder import RECORD, read_record

CELL = re.compile(
    r"(?P<method>first|uniform|fit|full)(-(?P<depth>\d+))?(-(?P<vocabulary>\d+k))?"
    r"(-(?P<teaching>untaught|contrastive|adapters|head|\d+e-\d+))?"
)
CUTS = {"first": ("depth", "depth"), "uniform": ("uniform", "layers"), "fit": ("linear-fit", "layers")}
PLAIN = ("allnli", "squad", "eli5_question_answer", "fever", "hotpot_qa", "nq", "quora_duplicates", "wiki_split")
TRIPLETS = ("allnli", "squad", "fever", "quora_duplicates")
PROFILE = ("allnli", "squad", "quora_duplicates")
TASKS = (
    *("STSBenchmark", "SICK-R", "STS17"),
    *("Banking77Classification", "EmotionClassification", "MassiveIntentClassification"),
    *("SciFact", "NFCorpus"),
)
LENGTH, SEED = 128, 42


def variant_of(cell: str, steps: int) -> dict[str, Any]:
    """Return a cell as the recipe's variant."""
    found = CELL.fullmatch(cell)
    if found is None or (found["method"] == "full") != (found["depth"] is None):
        raise SystemExit(f"{cell} is not a cell, such as first-6-32k-untaught, uniform-6 or full-32k")
    variant: dict[str, Any] = {"name": cell, "method": "full"}
    if found["depth"]:
        method, key = CUTS[found["method"]]
        variant |= {"method": method, "parameters": {key: int(found["depth"])}}
    if found["vocabulary"]:
        variant["vocabulary"] = found["vocabulary"]
    if found["teaching"] == "untaught":
        variant["train"] = None
    elif found["teaching"] == "contrastive":
        variant["train"] = {
            "teacher": None,
            "teacher_vectors": None,
            "distil": "none",
            "prompts": [],
            "steps": steps // 3,
            "learning_rate": 5e-5,
        }
    elif found["teaching"] == "adapters":
        variant["train"] = {"preset": "l3prune"}
    elif found["teaching"] == "head":
        variant["train"] = {"keep_projection": True}
    elif found["teaching"]:
        variant["train"] = {"learning_rate": float(found["teaching"])}
    return variant


def recipe_of(given: argparse.Namespace, texts: Path) -> dict[str, Any]:
    """Return the recipe: the uncut encoder and the cells."""
    train = given.data / "train"
    taught = {
        "preset": "distil",
        "steps": given.steps,
        "batch_size": given.batch_size,
        "max_length": given.length,
        "save_every": max(100, given.steps // 5),
        "seed": SEED,
        "prompts": given.prompts,
        "teacher": str(given.model.resolve()),
        "teacher_vectors": str(given.work / "teacher-vectors"),
        **({} if given.learning_rate is None else {"learning_rate": given.learning_rate}),
    }
    scorers = ["layer-loss", "linear-fit"] if any(cell.startswith("fit") for cell in given.cells) else ["layer-loss"]
    evaluated = {"max_length": LENGTH, "max_documents": given.max_documents, "speed_texts": 0}
    files = {
        name: [str(train / f"{one}.jsonl.gz") for one in of] for name, of in {"train": TRIPLETS, "profile": PROFILE}.items()
    }
    return {
        "model": str(given.model.resolve()),
        "data": {"texts": [str(texts)], **files},
        "profile": {"groups": 10, "group_size": 32, "max_length": given.length, "scorers": scorers},
        "train": taught,
        "evaluate": {"tasks": given.tasks, "mirror": str(given.data / "mteb"), **evaluated},
        "variants": [{"name": "full", "method": "full"}, *(variant_of(cell, given.steps) for cell in given.cells)],
    }


def draw_texts(given: argparse.Namespace) -> Path:
    """Return the file of the plain texts, drawn once: distinct ones, from all the triplets' sides alike."""
    texts: Path = given.work / "texts.jsonl.gz"
    if not texts.exists():
        given.work.mkdir(parents=True, exist_ok=True)
        found = load_texts([given.data / "train" / f"{name}.jsonl.gz" for name in PLAIN])
        distinct = sorted({one.text for one in found})
        chosen = random.Random(SEED).sample(distinct, min(given.texts, len(distinct)))
        write_json_lines(({"text": text} for text in chosen), texts)
    return texts


def tables_of(scores: dict[str, dict[str, Any]]) -> tuple[TextTable, TextTable]:
    """Return a row an encoder, with all scores and in brief, and put its share of the uncut one's mean into the scores."""
    rows: list[tuple[str, ...]] = []
    brief: list[tuple[str, ...]] = []
    for name, of in scores.items():
        of["share"] = of["mean"] / scores["full"]["mean"]
        speed = [f"{of['texts_per_s'][side]:.0f}" for side in ("queries", "documents")]
        cells = [f"{score * 100:.1f}" for score in of["tasks"].values()]
        size = [f"{of['parameters'] / 1e6:.1f} M", f"{of['bytes'] / 1e6:.0f} MB"]
        mean = (f"{of['mean'] * 100:.1f}", f"{of['share'] * 100:.1f} %")
        between = [f"{100 * end:+.1f}" for end in of["difference"]]
        rows.append((name, *size, *speed, *cells, *mean, " to ".join(between)))
        brief.append((name, *size, *mean))
    short = [task.removesuffix("Classification") for task in scores["full"]["tasks"]]
    first, last = ("encoder", "parameters", "on disk"), ("mean", "of full")
    whole = TextTable((*first, "queries/s", "documents/s", *short, *last, "difference, 95 %"), tuple(rows))
    return whole.without_empty_columns(), TextTable((*first, *last), tuple(brief))


def speed_of(folder: Path) -> dict[str, float]:
    """Return the texts/s of a cell's queries and documents, measured the first time that it is asked."""
    kept = folder / "speed.json"
    if not kept.exists():
        settings = EvaluateSettings(max_length=LENGTH)
        made = folder / "encoder" if (folder / "encoder").exists() else folder / "checkpoint"
        speed, _ = measure_cost(load_for_evaluation(made, settings), None, source="", settings=settings)
        write_json(kept, {side: speed[side]["texts_per_s"] for side in ("queries", "documents")})
    found: dict[str, float] = read_json(kept)
    return found


def scores_of(folder: Path) -> dict[str, Any]:
    """Return what a cell's folder holds about it: scores, size, speed, and how it was trained, if it was."""
    results = Results.load(folder / "results.json")
    of_tasks = {task.name: task.score for task in results.tasks}
    trained: dict[str, Any] = {}
    if (folder / "encoder" / RECORD).exists():
        record = read_record(folder / "encoder")["train"]
        trained = {"training": {name: record[name] for name in ("steps", "tokens", "seconds", "final_loss", "teacher")}}
    return {
        "tasks": of_tasks,
        "mean": sum(of_tasks.values()) / len(of_tasks),
        "parameters": results.size["parameters"],
        "bytes": sum(file.stat().st_size for file in (folder / "checkpoint").rglob("*.safetensors")),
        "texts_per_s": speed_of(folder),
        **trained,
    }


def main() -> None:
    """Run what is missing, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of an encoder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--cells", nargs="+", required=True, help="what to make and measure beside the uncut encoder")
    parser.add_argument("--texts", type=int, default=40_000, help="plain texts to learn from")
    parser.add_argument("--prompts", nargs="*", default=[], help="names of the encoder's prompts under which each is learnt")
    parser.add_argument("--steps", type=int, default=1000, help="training steps")
    parser.add_argument("--batch-size", type=int, default=64, help="texts of a step")
    parser.add_argument("--learning-rate", type=float, help="default: that of the preset")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--length", type=int, default=64, help="longest text in training, in tokens")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--max-documents", type=int, help="of a retrieval task: a sample of it")
    parser.add_argument(
        "--asymmetric", nargs="*", default=[], help="tasks on which taught cells search the uncut one's documents"
    )
    given = parser.parse_args()
    given.data, given.work = given.data.resolve(), given.work.resolve()
    comparison, folders = run_side_by_side(recipe_of(given, draw_texts(given)), given.work, given.jobs)
    scores: dict[str, dict[str, Any]] = {}
    for row in comparison.rows:
        folder = folders[row.name]
        gap = comparison.difference(row.name)
        difference = [gap.low, gap.high] if gap is not None and gap.low is not None else []
        scores[row.name] = {**scores_of(folder), "difference": difference}
        if given.asymmetric and row.name != "full" and (folder / "encoder").exists() and not row.name.endswith("contrastive"):
            output = given.work / f"{row.name}-asymmetric.json"
            if not output.exists():
                evaluate_encoder(
                    folder / "encoder",
                    tasks=given.asymmetric,
                    mirror=given.data / "mteb",
                    documents_by=folders["full"] / "checkpoint",
                    output=output,
                    max_length=LENGTH,
                    max_documents=given.max_documents,
                    speed_texts=0,
                )
            scores[row.name]["documents_by_full"] = {task.name: task.score for task in Results.load(output).tasks}
    table, brief = tables_of(scores)
    print(table.to_markdown())
    told = ("texts", "steps", "batch_size", "learning_rate", "length", "prompts", "tasks", "max_documents", "asymmetric")
    about = {name: getattr(given, name) for name in told} | {"plain_texts_of": PLAIN, "triplets_of": TRIPLETS}
    curve = Profile.load(folders["full"].parent / "profile.json").layer_loss
    result = {
        "model": given.model.name,
        "layer_loss": [round(loss, 4) for loss in curve.loss],
        "variants": scores,
        "table": {"header": table.header, "rows": table.rows},
        "brief": {"header": brief.header, "rows": brief.rows},
        "settings": {**about, "max_length": LENGTH, "seed": SEED},
    }
    write_result(given.out, result)


if __name__ == "__main__":
    main()
