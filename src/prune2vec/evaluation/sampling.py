"""Quick looks: a retrieval task with some of its queries, among some of its documents, and a name that says so."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from prune2vec.data.beir import Retrieval
from prune2vec.evaluation.evaluate_settings import EvaluateSettings

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData

Qrels = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How much of a retrieval task is kept.

    A smaller sample is part of a larger one of the same seed. Scores of a sample are higher than the whole task's, and only
    comparable with each other.

    Attributes:
        queries: At most so many queries; None for all.
        documents: At most so many documents, but all that are relevant to a kept query; None for all.
        seed: Seed of both draws.
    """

    queries: int | None = None
    documents: int | None = None
    seed: int = 42

    @classmethod
    def of(cls, settings: EvaluateSettings) -> Self:
        """Return what the settings of an evaluation say."""
        return cls(queries=settings.max_queries, documents=settings.max_documents, seed=settings.seed)

    def choose(self, queries: Sequence[str], documents: Sequence[str], qrels: Qrels) -> tuple[list[int], list[int]]:
        """Return the places of the queries and of the documents that are kept, in their order."""
        kept = self._draw(range(len(queries)), self.queries)
        relevant = {name for place in kept for name, grade in qrels.get(queries[place], {}).items() if grade > 0}
        needed = [place for place, name in enumerate(documents) if name in relevant]
        others = [place for place, name in enumerate(documents) if name not in relevant]
        room = None if self.documents is None else max(0, self.documents - len(needed))
        return kept, sorted([*needed, *self._draw(others, room)])

    def _draw(self, places: Iterable[int], count: int | None) -> list[int]:
        drawn = list(places)
        if count is None or count >= len(drawn):
            return drawn
        random.Random(self.seed).shuffle(drawn)
        return sorted(drawn[:count])


def sampling_note(*, queries: tuple[int, int], documents: tuple[int, int]) -> str:
    """Return how many are kept of how many, ``(1,000 of 5,183 documents, 50 of 300 queries)``; nothing where all are."""
    pairs = {"documents": documents, "queries": queries}
    parts = [f"{kept:,} of {there:,} {what}" for what, (kept, there) in pairs.items() if kept < there]
    return f"({', '.join(parts)})" if parts else ""


def sample_retrieval(retrieval: Retrieval, sampling: Sampling) -> tuple[Retrieval, str]:
    """Return the sample of a retrieval task, and its note."""
    if sampling.queries is None and sampling.documents is None:
        return retrieval, ""
    names, documents = list(retrieval.queries), list(retrieval.corpus)
    kept, found = sampling.choose(names, documents, retrieval.qrels)
    chosen = [names[place] for place in kept]
    corpus = {documents[place]: retrieval.corpus[documents[place]] for place in found}
    lost = retrieval.corpus.keys() - corpus.keys()
    sample = Retrieval(
        queries={name: retrieval.queries[name] for name in chosen},
        corpus=corpus,
        qrels={name: _without(retrieval.qrels[name], lost) for name in chosen},
    )
    return sample, sampling_note(queries=(len(kept), len(names)), documents=(len(found), len(documents)))


def sample_task(task: AbsTask, sampling: Sampling) -> str:
    """Cut a loaded MTEB retrieval task down in place and return its note; other tasks stay whole, with an empty note."""
    from mteb.abstasks import AbsTaskRetrieval

    if not isinstance(task, AbsTaskRetrieval) or (sampling.queries is None and sampling.documents is None):
        return ""
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    # Where each query has candidates of its own to be reranked, there is no corpus to sample from.
    splits = [data for splits in task.dataset.values() for data in splits.values() if data["top_ranked"] is None]
    counts = [_sample_split(data, sampling) for data in splits]
    kept, judged, found, there = (sum(count) for count in zip(*counts, strict=True)) if counts else (0, 0, 0, 0)
    return sampling_note(queries=(kept, judged), documents=(found, there))


def _sample_split(data: RetrievalSplitData, sampling: Sampling) -> tuple[int, int, int, int]:
    """Cut one split down; return the queries kept and there, and the documents kept and there."""
    qrels, documents = data["relevant_docs"], list(data["corpus"]["id"])
    judged = {name: place for place, name in enumerate(data["queries"]["id"]) if qrels.get(name)}
    names = list(judged)
    kept, found = sampling.choose(names, documents, qrels)
    lost = set(documents) - {documents[place] for place in found}
    data["queries"] = data["queries"].select([judged[names[place]] for place in kept])
    data["corpus"] = data["corpus"].select(found)
    data["relevant_docs"] = {names[place]: _without(qrels[names[place]], lost) for place in kept}
    return len(kept), len(judged), len(found), len(documents)


def _without(grades: Mapping[str, int], lost: Container[str]) -> dict[str, int]:
    """Drop judgements of documents that were not drawn; of those that the task never had, they stay, as not found."""
    return {name: grade for name, grade in grades.items() if name not in lost}
