"""Every depth of a language model, and the methods that choose what stays, side by side: one resumable sweep of ``prune2vec run``.

The whole model (``full``, what the others are compared with) and the depths of --alone are trained each in a run of its own, those of
--again with every further seed too (``alone-6``, ``alone-6-s43``); those of --elastic with the whole model in one run (``elastic-6``,
``elastic-full``); those of --distilled learn the vectors of ``full`` beside the labels; of --drop so many sub-layers of a kind go, the
most redundant first (``drop-16M``), and those of --narrow lose a share of the neurons of the MLPs that stay too, by EffiR's gates
(``narrow-16M-30pct``); those of --bidirectional are trained alone with every token seeing all others (``bidirectional-6``);
--methods are compared at the parameters of --sizes. All cells have as many rows and steps, with one seed the same, texts cut at
--length tokens; evaluation cuts texts at 128. The profile is taken on the paper's 1,280 tuples. WORK holds everything that is made on
the way: killed, the same command resumes, and a larger sweep keeps what is there. --jobs processes share the machine, a GPU for example.

    python benchmarks/depths.py --model smollm2 --data DATA --work runs/depths --out benchmarks/results/smollm2-depths.json \
        --alone 3 6 9 12 15 18 21 24 27 --elastic 6 12 18 24 --distilled 6 15 --seeds 42 43 --again 6 15 --drop 16M --jobs 8 \
        --methods random reverse uniform keep-last block-influence angular magnitude weights effir drop --sizes small 50%

DATA holds train/ (triplets, NAME.jsonl.gz), mteb/ (a folder a task) and probe-1280.jsonl.gz.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
from common import markdown_table, write_result
from scipy.stats import spearmanr
from side_by_side import run_side_by_side

from prune2vec.experiments.cell_table import SweepRecord, cell_rows
from prune2vec.experiments.comparison import Comparison
from prune2vec.experiments.figures import TASK
from prune2vec.experiments.intervals import gaps
from prune2vec.experiments.plots import color_of, drawn, styled_figure, whole_ticks
from prune2vec.experiments.ranking_diff import SCORE
from prune2vec.experiments.recipe import Recipe
from prune2vec.files import write_text
from prune2vec.profiling.profile import Profile

TRAIN = ("allnli", "squad", "eli5_question_answer", "fever", "hotpot_qa", "nq", "quora_duplicates", "wiki_split")
TASKS = (
    *("STSBenchmark", "SICK-R", "STS17"),
    *("Banking77Classification", "EmotionClassification", "MassiveIntentClassification"),
    *("SciFact", "NFCorpus"),
)
SCORERS = ("layer-loss", "redundancy", "magnitude", "angular-distance")
LENGTH = 128


def depth_alone(depth: int) -> dict[str, Any]:
    """Return the variant of the first layers, trained alone."""
    return {"name": f"alone-{depth}", "method": "depth", "parameters": {"depth": depth}}


def recipe_of(given: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe: what is trained together, what alone, and the methods at each size."""
    together = [
        {"name": f"elastic-{depth}", "method": "depth", "parameters": {"depth": depth}, "trained_with": "elastic-full"}
        for depth in given.elastic
    ]
    alone = [{"name": "full", "method": "full"}, *map(depth_alone, given.alone)]
    variants = [{**one, "train": {"seed": given.seeds[0]}} for one in alone]
    for seed in given.seeds[1:]:
        again = map(depth_alone, given.again)
        variants += [{**one, "name": f"{one['name']}-s{seed}", "train": {"seed": seed}} for one in again]
    variants += [{"name": f"drop-{drop}", "method": "drop", "parameters": {"drop": drop}} for drop in given.drop]
    for narrow in given.narrow:
        drop, share = narrow.split(":")
        width = {"method": "drop", "parameters": {"drop": drop}, "slim": {"width_cut": share}}
        variants.append({"name": f"narrow-{drop}-{share.replace('%', 'pct')}", **width})
    # The largest comes first: the others are trained in its run.
    variants += [{"name": "elastic-full", "method": "full"}, *together] if together else []
    vectors = str(given.work.resolve() / "teacher-vectors")
    for depth in given.distilled:
        variants.append(
            {**depth_alone(depth), "name": f"distilled-{depth}", "train": {"teacher": "full", "teacher_vectors": vectors}}
        )
    variants += [
        {**depth_alone(depth), "name": f"bidirectional-{depth}", "attention": "bidirectional"} for depth in given.bidirectional
    ]
    methods = [
        {"method": "magnitude", "name": name, "parameters": {"by": "weight"}} if name == "weights" else name
        for name in given.methods
    ]
    # Speeds of cells that share a machine say nothing.
    speed = {"speed_texts": 0} if given.jobs > 1 else {}
    # Hundreds of passes, so only where it is asked for.
    scorers = ["ablation"] if "ablation" in given.methods else []
    files = [str(given.data / "train" / f"{name}.jsonl.gz") for name in TRAIN]
    return {
        "model": given.model,
        "data": {"train": files, "profile": [str(given.data / "probe-1280.jsonl.gz")]},
        "profile": {"groups": given.groups, "group_size": 64, "max_length": given.length, "scorers": [*SCORERS, *scorers]},
        "prune": {"max_length": given.length},
        "train": {
            "steps": given.steps,
            "batch_size": given.batch_size,
            "max_length": given.length,
            "learning_rate": given.learning_rate,
            "save_every": 200,
        },
        "evaluate": {
            "tasks": given.tasks,
            "mirror": str(given.data / "mteb"),
            "max_length": LENGTH,
            "max_documents": given.max_documents,
            **speed,
        },
        "variants": variants,
        **({"sweep": {"methods": methods, "sizes": given.sizes, "seeds": given.seeds[:1]}} if methods else {}),
    }


def main() -> None:
    """Run what is missing, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", type=lambda path: Path(path).resolve(), required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made on the way")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--elastic", type=int, nargs="*", default=[], help="depths trained together with the whole model")
    parser.add_argument("--alone", type=int, nargs="*", default=[], help="depths trained each in a run of its own")
    parser.add_argument("--again", type=int, nargs="*", default=[], help="depths that are trained with the other --seeds too")
    parser.add_argument("--drop", nargs="*", default=[], help="sub-layers to drop, as prune2vec plan --drop takes them: 16M")
    parser.add_argument(
        "--narrow", nargs="*", default=[], help="sub-layers to drop and the share of neurons that goes then: 16M:30%%"
    )
    parser.add_argument("--distilled", type=int, nargs="*", default=[], help="depths that learn from the trained whole model")
    parser.add_argument("--bidirectional", type=int, nargs="*", default=[], help="depths trained alone, made bidirectional")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--done", action="store_true", help="start nothing: the table of the cells that are done")
    parser.add_argument("--methods", nargs="*", default=[], help="planners to compare at each size")
    parser.add_argument("--sizes", nargs="+", default=["small", "large"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42], help="the first is everything's, the others --again's")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--length", type=int, default=48, help="longest text in profile and training, in tokens")
    parser.add_argument("--groups", type=int, default=20, help="groups of 64 tuples in the profile")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--max-documents", type=int, help="most documents of a retrieval task (default: all)")
    given = parser.parse_args()
    recipe = recipe_of(given)
    comparison, folders = run_side_by_side(recipe, given.work, given.jobs, start=not given.done)
    rows = cell_rows(comparison, SweepRecord(cells=Recipe.of(recipe).cells))
    # A sampled task's name says of how many.
    tasks = [name for name in rows[0] if name.startswith(TASK.format(""))]
    columns = (*COLUMNS, *((name, name.removeprefix(TASK.format("")), 100.0, 1) for name in tasks), *SCORES)
    header = ("cell", "layers", *(title for _, title, _, _ in columns), "what these data tell")
    shown = [
        (
            row["cell"],
            (row["layers"] or "").partition(" ")[0],
            *(f"{row[name] * times:.{places}f}" if row[name] is not None else "" for name, _, times, places in columns),
            row["verdict"] or row["error"] or "",
        )
        for row in rows
    ]
    print(markdown_table(header, shown))
    told = ("steps", "batch_size", "learning_rate", "length", "seeds", "tasks", "max_documents")
    settings = {name: getattr(given, name) for name in told} | {"train": TRAIN, "max_length": LENGTH}
    curve = [round(loss, 4) for loss in Profile.load(folders["full"].parent / "profile.json").layer_loss.loss]
    about = {
        "environment": comparison.rows[0].results.environment,
        "model": given.model,
        "settings": settings,
        "layer_loss": curve,
        "curve_and_score": curve_and_score(curve, rows),
    }
    write_result(given.out, {**about, "pairs": pairs(comparison), "rows": rows, "table": {"header": header, "rows": shown}})
    write_text(given.out.with_suffix(".svg"), curve_above_scores(curve, rows))


def curve_and_score(curve: list[float], rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return Spearman's correlation of the loss before training with the score after it, over depths trained alike.

    A curve that tells which depth is worth most after training gives -1.
    """
    found = {}
    for kind, whole in (("elastic", "elastic-full"), ("alone", "full")):
        cells = [row for row in rows if row["score"] is not None and re.fullmatch(rf"{whole}|{kind}-\d+", row["cell"])]
        depths = [int(row["layers"].partition(" ")[0]) for row in cells]
        if len(depths) > 3:
            correlation = spearmanr([curve[depth - 1] for depth in depths], [row["score"] for row in cells])[0]
            found[kind] = {"depths": depths, "spearman": round(float(correlation), 3)}
    return found


def pairs(comparison: Comparison) -> dict[str, dict[str, list[float | None]]]:
    """Return by how many points of 100 each later cell's score differs from an earlier one's, with the 95 % interval of that."""
    cells, found = comparison.rows, {}
    for number, base in enumerate(cells[:-1], 1):
        later = cells[number:]
        differences = (gap[SCORE] for gap in gaps(base.results, [cell.results for cell in later]))
        found[base.name] = {
            cell.name: [None if value is None else round(100 * value, 2) for value in (gap.value, gap.low, gap.high)]
            for cell, gap in zip(later, differences, strict=True)
        }
    return found


def curve_above_scores(curve: list[float], rows: list[dict[str, Any]]) -> str:
    """Return a picture of the loss before training and of the scores after it, by depth, as SVG text.

    Cells with the first layers are joined, with the interval of their difference from the whole model, and those of one elastic run by a
    dashed line; those of another seed are hollow, and what keeps other parts of the model stands where as many parameters are.
    """
    whole, depths = rows[0], range(1, len(curve) + 1)
    first = sorted(
        (row for row in rows if re.fullmatch(r"full|alone-\d+|depth-small", row["cell"])), key=lambda row: row["parameters"]
    )
    layers = [int(row["layers"].split()[0]) for row in first]
    a_layer, rest = np.polyfit(layers, [row["parameters"] for row in first], 1)
    with styled_figure(8.2, 5.6, nrows=2, sharex=True, height_ratios=[2, 3]) as (figure, (top, bottom)):
        top.plot(depths, curve, color=color_of(0), linewidth=1.8, marker="o", markersize=3)
        top.set_ylabel("loss before training")
        low, high = (
            [100 * (whole["score"] + (row[end] if row[end] is not None else 0)) for row in first] for end in ("low", "high")
        )
        bottom.vlines(layers, low, high, color=color_of(0), alpha=0.35, linewidth=2)
        bottom.plot(layers, [100 * row["score"] for row in first], color=color_of(0), linewidth=1.8, marker="o", markersize=4)
        together = sorted((row["parameters"], 100 * row["score"]) for row in rows if row["cell"].startswith("elastic-"))
        if len(together) > 2:
            places = [((parameters - rest) / a_layer, score) for parameters, score in together]
            bottom.plot(*zip(*places, strict=True), color=color_of(2), linewidth=1.2, linestyle="--", marker="o", markersize=3)
            bottom.annotate("elastic", places[-1], (6, -3), textcoords="offset points", color=color_of(2))
        names: dict[int, float] = {}
        scores = [100 * row["score"] for row in rows]
        line_height = 0.058 * (max(scores) - min(scores))
        for row in sorted(rows, key=lambda row: -row["score"]):
            place = (row["parameters"] - rest) / a_layer, 100 * row["score"]
            if re.fullmatch(r"alone-\d+-s\d+", row["cell"]):
                bottom.plot(*place, color=color_of(0), marker="o", markersize=5, markerfacecolor="none")
            elif row["method"] not in (None, "depth") or row["cell"].startswith(("drop", "narrow")):
                bottom.plot(*place, color=color_of(1), marker="x", markersize=6)
                # Below the name above it, where about as many parameters are.
                near = round(place[0])
                names[near] = min(place[1], names.get(near, 100.0) - line_height)
                # Legible where a line passes.
                back = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
                left = {"ha": "right"} if place[0] > 0.9 * len(curve) else {}
                where = {"textcoords": "offset points", "color": color_of(1), "bbox": back, **left}
                bottom.annotate(row["cell"], (place[0], names[near]), (-6 if left else 6, -3), **where)
        bottom.set_ylabel("mean score after training")
        bottom.set_xlabel(f"first layers kept, of {len(curve)}; what keeps other parts: where as many parameters are")
        bottom.set_xlim(0.5, len(curve) + 0.5)
        whole_ticks(bottom)
        return drawn(figure)


COLUMNS = (
    ("parameters", "M parameters", 1e-6, 1),
    ("final_loss", "loss", 1.0, 3),
    ("train_seconds", "minutes", 1 / 60, 1),
)
SCORES = (
    ("score", "mean", 100.0, 1),
    ("difference", "difference", 100.0, 1),
    ("low", "from", 100.0, 1),
    ("high", "to", 100.0, 1),
)


if __name__ == "__main__":
    main()
