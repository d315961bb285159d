"""``results.json``: what an encoder scored, what it cost, and everything needed to measure it again."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field

from prune2vec.errors import EvaluationError
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.settings import AS_WRITTEN, Record, Size, read_as

METRICS = ("ndcg@10", "mrr@10", "recall@1", "recall@10", "recall@100")

Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """The result of one MTEB task.

    Attributes:
        name: Its name in mteb; where only a sample of the task was used it ends with how much that is:
            ``SciFact (1,000 of 5,183 documents)``.
        type: Its kind in mteb.
        main_score: The metric that counts.
        score: That metric, 0 to 1, averaged over splits and subsets.
        parts: Score of every split and subset: ``{"split", "subset", "score"}``.
        metrics: All finite metrics of the first split and subset.
        prompts: What stood before the texts: by ``query`` and ``document``, or ``text``.
        data: Where the data came from: ``{"path", "revision" or "digest"}``.
        seconds: Time it took, loading its data included.
        sample: How much of the task was used, where not all of it: ``(1,000 of 5,183 documents)``.
        items: What each query, pair or text adds to the score, for every one of ``parts``; empty where mteb does not say it.
    """

    __pydantic_config__ = AS_WRITTEN

    name: str
    type: str
    main_score: str
    score: Finite
    parts: tuple[Mapping[str, Any], ...]
    metrics: Mapping[str, Finite]
    prompts: Mapping[str, str]
    data: Mapping[str, str]
    seconds: float
    sample: str = ""
    items: tuple[ItemScores, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Results(Record):
    """An evaluated encoder.

    Attributes:
        encoder: Path, digest, dtype, limits, prompts and the record of how it was made; and the same of the encoder of the
            documents (``documents_by``), where that was another one.
        size: ``parameters`` (shared ones once), ``embedding_parameters``, ``disk_bytes``.
        memory: Peaks in bytes: ``process`` (whole process), ``encoding`` (during the speed sample), ``cuda``.
        speed: For ``queries`` and ``documents``: ``texts_per_s``, ``tokens_per_s`` and how they were measured.
        retrieval: On the user's own data: ``data`` (source, digest, counts, and how much of it is a ``sample``), ``metrics``,
            ``items`` (nDCG@10 of each query, in the order of the data), ``bm25``; empty without data.
        tasks: The MTEB tasks that were evaluated.
        missing: The MTEB tasks that were asked for but could not be evaluated, each with the reason.
        settings: The resolved settings.
        environment: Versions of the libraries and the kind of machine.
        seconds: Time per part.
    """

    FORMAT = "prune2vec.results/1"
    KIND, VERB = "results file", "evaluate"
    ERROR = EvaluationError
    COMPUTED = ("score", "score_name", "task_mean")

    encoder: Mapping[str, Any]
    size: Mapping[str, int]
    memory: Mapping[str, int | None]
    speed: Mapping[str, Any]
    retrieval: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[TaskScore, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def peak_memory(self) -> int | None:
        """Peak of the encoding in bytes, on the GPU where it ran on one; None where no speed was measured."""
        return self.memory.get("cuda") or self.memory.get("encoding")

    @property
    def task_mean(self) -> float | None:
        """Plain average of the main scores of the tasks that were evaluated; None without tasks."""
        return statistics.fmean(task.score for task in self.tasks) if self.tasks else None

    @property
    def score(self) -> float | None:
        """The one number for comparisons: nDCG@10 on the user's own data, else the average over the tasks; None with neither."""
        return float(self.retrieval["metrics"]["ndcg@10"]) if self.retrieval else self.task_mean

    @property
    def score_name(self) -> str:
        """What ``score`` is, with the counts: an average always says over how many of how many tasks it is."""
        if self.retrieval:
            return f"nDCG@10 {self.retrieval['data'].get('sample', '')}".rstrip()
        return self._mean_name if self.tasks else ""

    @property
    def _mean_name(self) -> str:
        sampled = sum(bool(task.sample) for task in self.tasks)
        mean = f"mean of {len(self.tasks)} of {len(self.tasks) + len(self.missing)} tasks"
        return f"{mean}, {sampled} sampled" if sampled else mean

    @property
    def data_digest(self) -> str | None:
        """What the user's own data were; None without them."""
        return (self.retrieval.get("data") or {}).get("digest")

    @cached_property
    def own_items(self) -> tuple[ItemScores, ...]:
        """What each query adds to nDCG@10 on the user's own data; empty without data, and in files of earlier releases."""
        items = self.retrieval.get("items")
        return (read_as(ItemScores, items),) if items else ()

    def __post_init__(self) -> None:
        """Refuse mappings without what a comparison prints."""
        read_as(_InResults, {name: getattr(self, name) for name in _InResults.model_fields})

    def render(self) -> str:
        """Return a short table of text."""
        return "\n".join([*self._cost_lines(), *self._own_lines(), *self._task_lines()])

    def _cost_lines(self) -> list[str]:
        size, peak = self.size, self.peak_memory
        documents = (self.encoder.get("documents_by") or {}).get("path")
        lines = [
            f"{self.encoder.get('path', '')}{f' for the queries, {documents} for the documents' if documents else ''}",
            f"  {size['parameters'] / 1e6:,.1f} M parameters, {_bytes(size['disk_bytes'])} on disk"
            f"{f', {_bytes(peak)} peak memory' if peak else ''}",
        ]
        for side in ("queries", "documents"):
            if side in self.speed:
                speed = self.speed[side]
                lines.append(f"  {side:<9} {speed['texts_per_s']:>10,.1f} texts/s {speed['tokens_per_s']:>12,.0f} tokens/s")
        return lines

    def _own_lines(self) -> list[str]:
        if not self.retrieval:
            return []
        data, bm25 = self.retrieval["data"], self.retrieval.get("bm25") or {}
        rows = {"encoder": self.retrieval["metrics"], "BM25": bm25.get("metrics")}
        sample = f" {data['sample']}" if data.get("sample") else ""
        cut = [f"{data[f'truncated_{side}']:,} {side}" for side in ("queries", "documents") if data.get(f"truncated_{side}")]
        return [
            "",
            f"{data['source']}{sample}: {data['queries']:,} queries, {data['documents']:,} documents",
            *([f"  {' and '.join(cut)} are longer than the encoder reads, and cut there"] if cut else []),
            f"  {'':<9}" + "".join(f"{name:>12}" for name in METRICS),
            *(f"  {name:<9}" + "".join(f"{row[m]:>12.4f}" for m in METRICS) for name, row in rows.items() if row),
        ]

    def _task_lines(self) -> list[str]:
        if not (self.tasks or self.missing):
            return []
        width = max(map(len, [*(task.name for task in self.tasks), *self.missing]))
        return [
            "",
            "MTEB tasks",
            *(f"  {task.name:<{width}}  {task.score:.4f}  {task.main_score}" for task in self.tasks),
            *(f"  {name:<{width}}  missing  {reason}" for name, reason in self.missing.items()),
            *([f"  {self._mean_name}: {self.task_mean:.4f}"] if self.task_mean is not None else []),
        ]


def _all_metrics(found: dict[str, float]) -> dict[str, float]:
    absent = next((name for name in METRICS if name not in found), None)
    if absent is not None:
        raise ValueError(f"{absent} is missing")
    return found


class _Nothing(BaseModel, extra="forbid"):
    """An empty mapping."""


class _Encoder(BaseModel):
    path: str = ""
    record: dict[str, Any] | None = None


class _Size(BaseModel):
    parameters: Size
    disk_bytes: Size


class _Speed(BaseModel):
    texts_per_s: Finite
    tokens_per_s: Finite


class _Speeds(BaseModel):
    queries: _Speed | None = None
    documents: _Speed | None = None


class _Data(BaseModel):
    source: str
    queries: Size
    documents: Size
    truncated_queries: Size = 0
    truncated_documents: Size = 0
    digest: str | None = None
    sample: str = ""


class _Scored(BaseModel):
    metrics: Annotated[dict[str, Finite], AfterValidator(_all_metrics)]
    items: ItemScores | None = None


class OwnScores(_Scored):
    """What was scored on the user's own data: the encoder's metrics, and BM25's."""

    bm25: _Scored | _Nothing | None = None


class _Retrieval(OwnScores):
    data: _Data


class _InResults(BaseModel):
    """What there must be inside the mappings of ``Results``, since it is compared and printed; there may be more."""

    encoder: _Encoder
    size: _Size
    speed: _Speeds
    retrieval: _Retrieval | _Nothing


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
