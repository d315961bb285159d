"""Several results side by side, as tables; the first is what the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import compress
from textwrap import indent
from typing import Any

from prune2vec.errors import markdown, shown, shown_lines
from prune2vec.evaluation.results import METRICS, Results
from prune2vec.experiments.comparable import notes_on, same_score, same_speed
from prune2vec.experiments.ranking_diff import OWN_DATA, SCORE, Gap, RankingDiff
from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan

_BM25 = "BM25"
# More rows than these make a table of tasks too wide to read with a column for each.
_MOST_COLUMNS = 8
_TITLES = ("nDCG@10", "MRR@10", "R@1", "R@10", "R@100")  # Of METRICS.


@dataclass(frozen=True)
class TextTable:
    """Cells as they are shown, a row as many as there are titles; the first column is text, the others are numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def to_text(self) -> str:
        """Return aligned columns for a terminal."""
        lines = [tuple(map(shown, line)) for line in (self.header, *self.rows)]
        first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = [
            "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
            for name, *cells in lines
        ]
        return "\n".join([aligned[0], "─" * len(aligned[0]), *aligned[1:]])

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        rule = ("---", *("---:" for _ in self.header[1:]))
        header, *rows = (tuple(map(markdown, line)) for line in (self.header, *self.rows))
        return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *rows))

    def without_empty_columns(self) -> TextTable:
        """Return the table without the columns that have no value in any row."""
        kept = [any(column) for column in zip(*self.rows, strict=True)]
        return TextTable(tuple(compress(self.header, kept)), tuple(tuple(compress(row, kept)) for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """One encoder in a comparison.

    Attributes:
        name: Its short name.
        results: What was measured.
        plan: The plan it was cut by, where one lies beside the results or the encoder.
        same_as: Name of the row with the same layers whose encoder stands for this one too.
        teacher: Name of the row whose vectors this one learnt.
    """

    name: str
    results: Results
    plan: PruningPlan | None = None
    same_as: str | None = None
    teacher: str | None = None

    @property
    def params(self) -> int:
        """Real parameters, embeddings counted once."""
        return self.results.size["parameters"]

    @property
    def kept(self) -> Kept | None:
        """What stays of the model, by the plan or else by the encoder's own record; None where neither says."""
        if self.plan is not None:
            return self.plan.kept
        cut = self._record.get("plan") or self._record
        if not cut.get("keep_layers"):
            return None
        return Kept.of(cut["keep_layers"], drop_attention=cut.get("drop_attention") or (), drop_mlp=cut.get("drop_mlp") or ())

    @property
    def layers(self) -> str:
        """Layers kept, and of how many."""
        whole = self.plan.num_layers if self.plan is not None else self._record.get("num_layers")
        return f"{len(self.kept.layers)} of {whole}" if self.kept is not None and whole else ""

    @property
    def inside(self) -> str:
        """How many attentions, MLPs and neurons the kept layers have, where some are gone; empty where none is."""
        if self.kept is None:
            return ""
        kept = self.kept
        counts = (("attention", kept.attentions, kept.drop_attention), ("MLP", kept.mlps, kept.drop_mlp))
        parts = [f"{len(stay)} {one}{'s' * (len(stay) != 1)}" for one, stay, gone in counts if gone]
        if self.plan is not None and kept.widths:
            widths = self.plan.shape.mlp_width
            full = sum(widths[layer] for layer in kept.mlps)
            parts.append(f"{100 * (1 - kept.cut_neurons(widths) / full):.0f} % of the neurons")
        return ", ".join(parts)

    @property
    def _record(self) -> Mapping[str, Any]:
        return self.results.encoder.get("record") or {}

    @property
    def proportional_params(self) -> int | None:
        """Parameters by the L3Prune paper's convention, if the plan is known."""
        return self.plan.shape.proportional_params(len(self.plan.keep_layers)) if self.plan is not None else None

    @property
    def training(self) -> Mapping[str, Any]:
        """The record of its training; empty where it was not trained, or was cut out of an encoder trained at several depths."""
        return self._record.get("train") or {}

    @property
    def model(self) -> str:
        """Name of the model it was cut from; empty where neither plan nor record says it."""
        source = self.plan.model if self.plan is not None else self._record.get("model") or {}
        return str(source.get("name") or "")

    @property
    def texts_per_s(self) -> float | None:
        """Documents encoded per second."""
        return (self.results.speed.get("documents") or {}).get("texts_per_s")

    @property
    def score(self) -> float | None:
        """The one number for comparisons, if anything was scored."""
        return self.results.score

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "name": self.name,
            "same_as": self.same_as,
            "layers": self.layers,
            **({"attentions": len(self.kept.attentions), "mlps": len(self.kept.mlps)} if self.kept is not None else {}),
            "parameters": self.params,
            "proportional_parameters": self.proportional_params,
            "disk_bytes": self.results.size["disk_bytes"],
            "documents_per_s": self.texts_per_s,
            "score": self.score,
            "metrics": dict(self.results.retrieval.get("metrics", {})),
            "tasks": {task.name: task.score for task in self.results.tasks},
            "missing_tasks": dict(self.results.missing),
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows in the order they were given, and what a reader must know before comparing them.

    Attributes:
        rows: The first is what the others are compared with.
        gaps: How each of the others, and BM25, differs from it: by name, and by what was measured.
        notes: Why some of the numbers may not be comparable, one sentence each.
        worst: The queries that the second of two rows ranks worse than the first, where that was asked.
        losses: What was lost since earlier results, where that was asked: one sentence each.
    """

    rows: tuple[ResultRow, ...]
    gaps: Mapping[str, Mapping[str, Gap]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    worst: tuple[RankingDiff, ...] = ()
    losses: tuple[str, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether something was lost, so that the program ends with 1."""
        return bool(self.losses)

    @property
    def bm25(self) -> Mapping[str, float]:
        """BM25's metrics on the same queries; empty unless every row was measured on the same data."""
        found: Mapping[str, float] = bm25_of(self.rows).get("metrics", {})
        return found

    @property
    def score_name(self) -> str:
        """What the score is, if all rows have the same one."""
        names = {row.results.score_name for row in self.rows if row.score is not None}
        return names.pop() if len(names) == 1 else "score"

    def summary(self) -> TextTable:
        """Return the main table: size, speed, scores and the difference from the first row."""
        first, own_data, rows = self.rows[0], any(row.results.retrieval for row in self.rows), []
        for row in self.rows:
            speed, times, gap = row.texts_per_s, self.speed_up(row), self.difference(row.name)
            cells = {
                "variant": f"{row.name} (= {row.same_as})" if row.same_as else row.name,
                "layers": ", ".join(filter(None, (row.layers, row.inside))),
                "parameters": f"{row.params / 1e6:,.1f} M",
                "share": f"{100 * row.params / first.params:.0f} %",
                "docs/s": f"{speed:,.1f}" if speed is not None else "",
                "speed-up": f"{times:.1f}x" if row is not first and times is not None else "",
                **self._score_cells(row.results.retrieval.get("metrics", {}), score=row.score, difference=gap),
                "of teacher": f"{share:.1%}" if (share := self.share_of_teacher(row)) is not None else "",
                "tasks' mean": _score(row.results.task_mean) if own_data else "",
            }
            rows.append(cells)
        if self.bm25:
            rows.append({"variant": _BM25, **self._score_cells(self.bm25, score=None, difference=self.difference(_BM25))})
        return _table(rows)

    def speed_up(self, row: ResultRow) -> float | None:
        """Return how many times as fast as the first a row encodes documents; None where that was not measured on the same texts."""
        first, speed = self.rows[0], row.texts_per_s
        if speed is None or not first.texts_per_s or not same_speed(row.results, first.results):
            return None
        return speed / first.texts_per_s

    def share_of_teacher(self, row: ResultRow) -> float | None:
        """Return what part of its teacher's score a row has; None without a teacher among the rows, or where it cannot be told."""
        teacher = next((one for one in self.rows if one.name == row.teacher), None)
        if teacher is None or row.score is None or not teacher.score or not same_score(row.results, teacher.results):
            return None
        return row.score / teacher.score

    def difference(self, name: str) -> Gap | None:
        """Return how much more a row scores than the first; None where the two were not measured on the same thing."""
        return self.gaps.get(name, {}).get(SCORE)

    def _score_cells(self, metrics: Mapping[str, float], *, score: float | None, difference: Gap | None) -> dict[str, str]:
        shown = f"{difference.value:+.4f}" if difference is not None else ""
        if not any(row.results.retrieval for row in self.rows):
            return {self.score_name: _score(score), "difference": shown}
        main, *rest = (_score(metrics.get(name)) for name in METRICS)
        # The score's own name says of a sample how much it is of.
        own = {one.results.score_name for one in self.rows if one.results.retrieval}
        title = own.pop() if len(own) == 1 else _TITLES[0]
        return {title: main, "difference": shown, **dict(zip(_TITLES[1:], rest, strict=True))}

    def costs(self) -> TextTable | None:
        """Return the table of what training and encoding took; None where none was trained."""
        if not any(row.training for row in self.rows):
            return None
        rows = []
        for row in self.rows:
            training, speed, encoding = row.training, row.results.speed, row.results.peak_memory
            cells = {
                "cost of": f"{row.name} (= {row.same_as})" if row.same_as else row.name,
                "steps": f"{training['steps']:,}" if training else "",
                "training loss": _score(training.get("final_loss")),
                "training": f"{training['seconds'] / 60:,.1f} min" if training else "",
                "its peak memory": f"{training['peak_memory_bytes'] / 1e9:.2f} GB" if training else "",
                **{
                    f"{side}/s": f"{speed[side]['texts_per_s']:,.1f}" if side in speed else ""
                    for side in ("queries", "documents")
                },
                "peak memory of encoding": f"{encoding / 1e9:.2f} GB" if encoding else "",
                "on disk": f"{row.results.size['disk_bytes'] / 1e6:,.1f} MB",
            }
            rows.append(cells)
        return _table(rows)

    def by_model(self) -> TextTable | None:
        """Return what the rows of each of several models keep of its largest one's score; None where there are not several."""
        models: dict[str, list[ResultRow]] = {}
        for row in self.rows:
            if row.model:
                models.setdefault(row.model, []).append(row)
        if len(models) < 2 or max(map(len, models.values())) < 2:
            return None
        rows = []
        for name, found in models.items():
            base = max(found, key=lambda row: row.params)
            for row in found:
                comparable = row is not base and same_score(row.results, base.results)
                scores = [one.score for one in (row, base) if comparable and one.score is not None]
                cells = {
                    "of each model": row.name,
                    "model": name.rpartition("/")[2],
                    "layers": ", ".join(filter(None, (row.layers, row.inside))),
                    "parameters": f"{row.params / 1e6:,.1f} M",
                    "cut": f"{100 * (1 - row.params / base.params):.0f} %",
                    self.score_name: _score(row.score),
                    "against its largest": f"{scores[0] - scores[1]:+.4f}" if len(scores) == 2 else "",
                }
                rows.append(cells)
        return _table(rows)

    def tasks(self) -> TextTable | None:
        """Return the table of MTEB tasks, the longer side down: tasks, or rows of the comparison; None without tasks."""
        scores = [
            {task.name: f"{task.score:.4f}" for task in row.results.tasks} | dict.fromkeys(row.results.missing, "missing")
            for row in self.rows
        ]
        names = dict.fromkeys(name for one in scores for name in one)
        if not names:
            return None
        rows = [(row.name, *(one.get(name, "") for name in names)) for row, one in zip(self.rows, scores, strict=True)]
        if len(rows) > max(len(names), _MOST_COLUMNS):
            return TextTable(("score of", *names), tuple(rows))
        header, *turned = zip(("task", *names), *rows, strict=True)
        return TextTable(header, tuple(turned))

    def differences(self) -> TextTable | None:
        """Return the table of all differences to the first row and how sure they are; None where there are none."""
        rows = [
            (
                name,
                self.score_name if what in (SCORE, OWN_DATA) else what,
                f"{gap.value:+.4f}",
                gap.interval,
                gap.over,
                gap.verdict,
            )
            for name, found in self.gaps.items()
            for what, gap in found.items()
            # The score on own data, or on one task, is there under its own name.
            if not (what == SCORE and (OWN_DATA in found or len(found) == 2))
        ]
        header = (f"against {self.rows[0].name}", "on", "difference", "95 % interval", "from", "verdict")
        return TextTable(header, tuple(rows)) if rows else None

    def _tables(self) -> list[TextTable]:
        tables = (self.summary(), self.by_model(), self.tasks(), self.differences(), self.costs())
        return [table for table in tables if table is not None]

    def render(self) -> str:
        """Return the comparison as plain text."""
        parts = [table.to_text() for table in self._tables()]
        parts += [
            "\n".join(map(shown, self.notes)),
            *(diff.render() for diff in self.worst),
            "\n".join(map(shown, self.losses)),
        ]
        return "\n\n".join(filter(None, parts))

    def to_markdown(self) -> str:
        """Return the comparison as Markdown."""
        parts = [table.to_markdown() for table in self._tables()]
        parts += ["\n".join(f"- {markdown(note)}" for note in notes) for notes in (self.notes, self.losses)]
        parts += [indent(shown_lines(diff.render()), "    ") for diff in self.worst]
        return "\n\n".join(filter(None, parts)) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        rows = [{**row.to_json(), "teacher": row.teacher, "share_of_teacher": self.share_of_teacher(row)} for row in self.rows]
        differences = {
            name: {what: {**asdict(gap), "verdict": gap.verdict} for what, gap in found.items()}
            for name, found in self.gaps.items()
        }
        return {
            "score_name": self.score_name,
            "rows": rows,
            "bm25": dict(self.bm25),
            "differences": differences,
            "notes": list(self.notes),
            "worst": [diff.to_json() for diff in self.worst],
            "losses": list(self.losses),
        }


def bm25_of(rows: Sequence[ResultRow]) -> Mapping[str, Any]:
    """Return BM25's metrics and items on the same queries; empty unless every row was measured on the same data, and none is named so."""
    if any(row.name == _BM25 for row in rows):
        return {}
    found = [row.results.retrieval.get("bm25") or {} for row in rows]
    metrics, data = [one.get("metrics", {}) for one in found], {row.results.data_digest for row in rows}
    return found[0] if len(data) == 1 and all(one == metrics[0] for one in metrics) else {}


def _gaps(rows: Sequence[ResultRow]) -> dict[str, dict[str, Gap]]:
    first, *others = ((row.name, row.results) for row in rows)
    if bm25 := bm25_of(rows):
        retrieval = {**first[1].retrieval, "metrics": bm25["metrics"], "items": bm25.get("items")}
        others.append((_BM25, replace(first[1], retrieval=retrieval, tasks=())))
    if not others:
        return {}
    from prune2vec.experiments.intervals import gaps  # Here: a table of one encoder waits for no numpy.

    found = gaps(first[1], [results for _, results in others])
    return {name: of_row for (name, _), of_row in zip(others, found, strict=True)}


def comparison_of(rows: Sequence[ResultRow]) -> Comparison:
    """Return the comparison of ``rows`` with a note for everything that differs and should not."""
    notes = notes_on({row.name: row.results for row in rows}, bm25=bool(bm25_of(rows)))
    return Comparison(rows=tuple(rows), gaps=_gaps(rows), notes=tuple(notes))


def _table(rows: Sequence[Mapping[str, str]]) -> TextTable:
    """Return a table of cells by title, as the first row has the titles, without empty columns."""
    header = tuple(rows[0])
    return TextTable(header, tuple(tuple(cells.get(title, "") for title in header) for cells in rows)).without_empty_columns()


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
