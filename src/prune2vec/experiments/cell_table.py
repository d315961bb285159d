"""All cells of a sweep in one table, with the digests of what was measured: ``sweep.parquet`` and ``sweep.md``."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune2vec.errors import EvaluationError, markdown
from prune2vec.experiments.comparison import Comparison, ResultRow, TextTable
from prune2vec.experiments.figures import TASK
from prune2vec.experiments.stage_runner import SWEEP_TABLES
from prune2vec.files import write_bytes, write_text
from prune2vec.planning.plan_view import cut_summary
from prune2vec.settings import Record

_TEXTS = ("cell", "method", "size", "train", "layers", "cut", "score_name", "verdict", "error")
_DIGESTS = ("profile", "plan", "encoder", "data")
_COLUMNS = (
    *("method", "size", "train", "seed", "layers", "cut", "parameters", "disk_bytes", "documents_per_s"),
    *("steps", "final_loss", "train_seconds", "train_memory_bytes", "score_name", "score"),
    *("difference", "low", "high", "verdict", *(f"{what}_digest" for what in _DIGESTS), "same_as"),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant of a sweep, and where it stands in it.

    Attributes:
        name: Of the variant.
        method: As the sweep calls it.
        size: As the sweep writes it; empty for the whole model.
        train: Way to train; empty where there is one only.
        seed: Of the training; None where it is not trained.
    """

    name: str
    method: str
    size: str
    train: str
    seed: int | None


@dataclass(frozen=True, kw_only=True)
class SweepRecord(Record):
    """``sweep.json``: which cells a sweep has, in their order, and what stopped those that failed, by name."""

    FORMAT = "prune2vec.sweep/1"
    KIND, VERB = "list of cells", "run"
    ERROR = EvaluationError

    cells: tuple[Cell, ...]
    errors: Mapping[str, str] = field(default_factory=dict)


def cell_rows(comparison: Comparison, record: SweepRecord) -> list[dict[str, Any]]:
    """Return one row a variant: first those that are no cell, then the cells as the sweep has them; failed ones with their error.

    A cell that is in neither (one of another shard) has no row.
    """
    there = {row.name: row for row in comparison.rows}
    cells = {cell.name: cell for cell in record.cells}
    names = [*(name for name in there if name not in cells), *(name for name in record.errors if name not in cells)]
    names += [name for name in cells if name in there or name in record.errors]
    tasks = dict.fromkeys(task.name for row in comparison.rows for task in row.results.tasks)
    return [_row(name, cells.get(name), there.get(name), comparison, tuple(tasks), record.errors.get(name)) for name in names]


def _row(
    name: str, cell: Cell | None, row: ResultRow | None, comparison: Comparison, tasks: Sequence[str], error: str | None
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "cell": name,
        **dict.fromkeys(_COLUMNS),
        **dict.fromkeys(map(TASK.format, tasks)),
        "error": error,
    }
    if cell is not None:
        values |= {"method": cell.method, "size": cell.size, "train": cell.train, "seed": cell.seed}
    if row is not None:
        values |= {
            "layers": row.layers,
            "parameters": row.params,
            "disk_bytes": row.results.size["disk_bytes"],
            "documents_per_s": row.texts_per_s,
            "score_name": row.results.score_name,
            "score": row.score,
            "steps": row.training.get("steps"),
            "final_loss": row.training.get("final_loss"),
            "train_seconds": row.training.get("seconds"),
            "train_memory_bytes": row.training.get("peak_memory_bytes"),
            **{TASK.format(task.name): task.score for task in row.results.tasks},
            # Results of earlier versions name the encoder with the times at which it was made.
            "encoder_digest": row.results.encoder.get("content_digest", row.results.encoder.get("digest")),
            "data_digest": row.results.data_digest,
            "same_as": row.same_as,
        }
        if row.plan is not None:
            digests = {"profile_digest": row.plan.profile_digest, "plan_digest": row.plan.digest}
            values |= {"cut": cut_summary(row.plan), **digests}
    if (gap := comparison.difference(name)) is not None:
        values |= {"difference": gap.value, "low": gap.low, "high": gap.high, "verdict": gap.verdict}
    return values


def write_tables(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the rows as ``sweep.parquet`` and ``sweep.md``."""
    import pyarrow as pa
    from pyarrow import parquet

    buffer = io.BytesIO()
    # A column without a single value has a type all the same.
    kinds = {name: pa.string() if name in _TEXTS or name.endswith(("_digest", "same_as")) else pa.float64() for name in rows[0]}
    kinds |= dict.fromkeys(("seed", "parameters", "disk_bytes", "steps", "train_memory_bytes"), pa.int64())
    parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(list(kinds.items()))), buffer)
    write_bytes(folder / SWEEP_TABLES[0], buffer.getvalue())
    write_text(folder / SWEEP_TABLES[1], table_markdown(rows))


def table_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as Markdown: scores, what was measured, and the spread over seeds where there are several."""
    made = [(row["cell"], row["cut"] or "", *((row[f"{what}_digest"] or "")[:12] for what in _DIGESTS)) for row in rows]
    tables = [_scores(rows), seed_spread(rows), TextTable(("cuts and digests", "cut", *_DIGESTS), tuple(made))]
    parts = ["# Sweep", *(table.without_empty_columns().to_markdown() for table in tables if table is not None)]
    failed = [f"- {markdown(row['cell'])} failed: {markdown(row['error'])}" for row in rows if row["error"]]
    return "\n\n".join(filter(None, [*parts, "\n".join(failed)])) + "\n"


def _scores(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    tasks = [name for name in rows[0] if name.startswith(TASK.format(""))]
    header = ("cell", "layers", "parameters", "docs/s", "score", "difference", "95 % interval", "verdict")
    return TextTable(
        (*header, *(name.removeprefix(TASK.format("")) for name in tasks)),
        tuple(
            (
                f"{row['cell']} (= {row['same_as']})" if row["same_as"] else row["cell"],
                row["layers"] or "",
                f"{row['parameters'] / 1e6:,.1f} M" if row["parameters"] is not None else "",
                f"{row['documents_per_s']:,.1f}" if row["documents_per_s"] is not None else "",
                _number(row["score"]),
                _number(row["difference"], "+"),
                f"{row['low']:+.4f} to {row['high']:+.4f}" if row["low"] is not None else "",
                "failed" if row["error"] else row["verdict"] or "",
                *(_number(row[name]) for name in tasks),
            )
            for row in rows
        ),
    )


def seed_spread(rows: Sequence[Mapping[str, Any]]) -> TextTable | None:
    """Return mean and spread over the seeds of each method, size and way to train; None where nothing has several.

    The mean difference is that to the first row's method, each seed from the same seed; empty where one of those is missing.
    """
    scored = [row for row in rows if row["score"] is not None]
    base = next((_kind(row) for row in scored if row["difference"] is None), None)
    # Copies too: where it is not trained, its cells of other seeds are copies of the first.
    of_base = {row["seed"]: row["score"] for row in scored if row["seed"] is not None and _kind(row) == base}
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in scored:
        # What is the same as another cell, such as an encoder that is not trained, has no seed of its own.
        if row["seed"] is not None and not row["same_as"]:
            groups.setdefault(_kind(row), []).append(row)
    lines = []
    for kind, found in groups.items():
        if len(found) == 1:
            continue
        scores = [row["score"] for row in found]
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        difference = "" if kind == base else _number(_mean_difference(found, of_base), "+")
        deviation = f"{statistics.stdev(scores):.4f}"
        lines.append(
            (" ".join(filter(None, kind)), str(len(found)), _number(statistics.fmean(scores)), deviation, spread, difference)
        )
    header = ("over seeds", "seeds", "mean score", "standard deviation", "least to most", "mean difference")
    return TextTable(header, tuple(lines)) if lines else None


def _kind(row: Mapping[str, Any]) -> tuple[str, ...]:
    return row["method"], row["size"], row["train"]


def _mean_difference(rows: Sequence[Mapping[str, Any]], of_base: Mapping[int, float]) -> float | None:
    """Return the mean difference of cells from the first cell's scores by seed, or from the one that it has where it has no seed."""
    compared = [row for row in rows if row["difference"] is not None]
    if not of_base:
        differences = [row["difference"] for row in compared]
    elif all(row["seed"] in of_base for row in compared):
        differences = [row["score"] - of_base[row["seed"]] for row in compared]
    else:
        return None
    return statistics.fmean(differences) if differences else None


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"
