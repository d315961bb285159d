"""A sweep of many cells whose numbers are made, with the comparison and the table that a real one would have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import Results, TaskScore
from prune2vec.experiments.cell_table import Cell, SweepRecord, cell_rows
from prune2vec.experiments.comparison import Comparison, ResultRow, comparison_of
from prune2vec.experiments.figures import pictures
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.report import ReportData, profile_pictures, report_html
from prune2vec.planning.plan import PruningPlan
from tests.experiments.small import LAYERS, profile_of, recipe_values, results_of

METHODS = ("depth", "random", "magnitude", "effir", "block-influence", "angular", "ablation", "reverse", "drop")


def made_sweep(cells: int, *, tasks: int = 5) -> tuple[Comparison, SweepRecord, dict[str, PruningPlan]]:
    """Return a sweep of so many trained cells: full first, then method after method at eleven depths, seed after seed."""
    profile, rows, found = profile_of(), [], []
    for place in range(cells):
        seed, at = divmod(place, 1 + len(METHODS) * (LAYERS - 1))
        method, depth = ("full", LAYERS) if at == 0 else (METHODS[(at - 1) // (LAYERS - 1)], 1 + (at - 1) % (LAYERS - 1))
        name = f"{method}-{100 * depth // LAYERS}pct-s{seed + 1}" if at else f"full-s{seed + 1}"
        plan = PruningPlan(model=profile.model, shape=profile.shape, keep_layers=tuple(range(depth)), method=method)
        rows.append(ResultRow(name=name, results=_results(name, place, depth, tasks), plan=plan))
        found.append(
            Cell(name=name, method=method, size="" if at == 0 else f"{100 * depth // LAYERS}%", train="", seed=seed + 1)
        )
    plans = {row.name: row.plan for row in rows if row.plan is not None}
    return comparison_of(rows), SweepRecord(cells=tuple(found)), plans


def made_page(folder: Path, cells: int) -> str:
    """Return the HTML report of such a sweep, with all that the report of a run has."""
    comparison, record, plans = made_sweep(cells)
    rows = cell_rows(comparison, record)
    curves = {name: [(step, 3 / (1 + step / 100) + (step * 7 % 11) / 10) for step in range(1, 1001)] for name in plans}
    stage = {"key": "k" * 64, "output": "o" * 64, "seconds": 12.3, "finished": "2026-11-26T20:00:00+00:00"}
    names = [f"{name}.{part}" for name in plans for part in ("plan", "prune", "train", "evaluate")]
    recipe = Recipe.of(recipe_values(folder, sweep={"methods": ["full"], "sizes": ["small"]})).swept()
    copies = tuple(recipe.variants[0].model_copy(update={"name": name}) for name in plans)
    data = ReportData(
        profile=profile_of(),
        plans=plans,
        same_cut_as={},
        comparison=comparison,
        answers=(),
        answered_by="",
        rows=rows,
        encoders={},
        manifest={
            "environment": {},
            "seconds": 1.0,
            "stages": dict.fromkeys(names, stage),
            "plans": dict.fromkeys(plans, stage),
        },
        recipe=recipe.model_copy(update={"variants": copies}).to_yaml(),
    )
    return report_html(data, [*pictures(rows, curves=curves), *profile_pictures(data)])


def sweep_rows(cells: int) -> list[dict[str, Any]]:
    """Return the table of such a sweep."""
    comparison, record, _ = made_sweep(cells)
    return cell_rows(comparison, record)


def _results(name: str, place: int, depth: int, tasks: int) -> Results:
    training = {
        "steps": 1000,
        "final_loss": 3 - 2 * depth / LAYERS + 0.01 * (place % 7),
        "seconds": 60.0 * depth + place % 11,
        "peak_memory_bytes": 10**9 + 10**8 * depth,
    }
    scores = [0.3 + 0.3 * depth / LAYERS + 0.02 * ((place * 7 + task) % 5) for task in range(tasks)]
    # Forty queries, of which each encoder finds other ones.
    items = [[score + 0.1 * ((query * (place + 3)) % 7 - 3) for query in range(40)] for score in scores]
    return results_of(
        name,
        params=1_000_000 + 500_000 * depth,
        docs_per_s=1000.0 / depth + place % 3,
        encoder={"path": name, "digest": f"{place:064d}", "record": {"train": training}},
        retrieval={},
        tasks=tuple(
            TaskScore(
                name=f"Task{task}Retrieval",
                type="Retrieval",
                main_score="ndcg_at_10",
                score=sum(values) / len(values),
                parts=({"split": "test", "subset": "default", "score": sum(values) / len(values)},),
                metrics={},
                prompts={},
                data={"digest": "d"},
                seconds=1.0,
                items=(ItemScores.of(values, items="these", unit="queries", split="test", subset="default"),),
            )
            for task, values in enumerate(items)
        ),
    )
