"""Scores on held-out rows while training: retrieval among their own documents, with sentence-transformers' evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from prune2vec.data.beir import triplets_as_retrieval
from prune2vec.training.training_data import TrainingTable

if TYPE_CHECKING:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator


def evaluators(tables: Mapping[str, TrainingTable], *, rows: int, batch_size: int) -> list[InformationRetrievalEvaluator]:
    """Return one evaluator for each table, over its first ``rows`` rows."""
    return [_evaluator(name, table, rows=rows, batch_size=batch_size) for name, table in tables.items()]


def _evaluator(name: str, table: TrainingTable, *, rows: int, batch_size: int) -> InformationRetrievalEvaluator:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    retrieval = triplets_as_retrieval(table.rows[:rows])
    return InformationRetrievalEvaluator(
        queries=dict(retrieval.queries),
        corpus=dict(retrieval.corpus),
        relevant_docs={query: set(grades) for query, grades in retrieval.qrels.items()},
        query_prompt=table.query_prompt,
        corpus_prompt=table.document_prompt,
        name=name,
        batch_size=batch_size,
        accuracy_at_k=[1],
        precision_recall_at_k=[10],
        map_at_k=[10],
        write_csv=False,
    )
