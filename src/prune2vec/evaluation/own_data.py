"""Retrieval on the user's own data: held-out triplets, or a folder in BEIR's layout."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from prune2vec.data.beir import Retrieval, is_beir, read_beir, triplets_as_retrieval
from prune2vec.data.documents import read_documents, same_text
from prune2vec.data.reader import load_triplets
from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.retrieval import Bm25, rank_all, retrieval_metrics
from prune2vec.evaluation.text_vectors import count_tokens, encode_texts
from prune2vec.files import digest_json


def load_retrieval(source: Path | str, settings: EvaluateSettings) -> Retrieval:
    """Read held-out triplets (file, folder or hub dataset) or a BEIR folder, plus the extra corpus of the settings.

    Raises:
        DataError: It cannot be read.
        EvaluationError: It holds no query with a relevant document.
    """
    if is_beir(Path(source)):
        retrieval = read_beir(Path(source), settings.split)
    else:
        retrieval = triplets_as_retrieval(load_triplets(source, require_negative=False, split=settings.split))
    qrels = {
        query: grades
        for query, grades in retrieval.qrels.items()
        if query in retrieval.queries and any(grade > 0 for grade in grades.values())
    }
    if not qrels or not retrieval.corpus:
        raise EvaluationError(f"{source} holds no query with a relevant document; expected triplets or a BEIR folder")
    corpus = dict(retrieval.corpus)
    if settings.corpus is not None:
        corpus |= _distractors(settings.corpus, corpus)
    return Retrieval(queries={query: retrieval.queries[query] for query in qrels}, corpus=corpus, qrels=qrels)


def _distractors(path: Path, corpus: Mapping[str, str]) -> dict[str, str]:
    """Return the documents of ``path`` whose text the corpus does not hold yet, under names it does not use.

    A text that it holds is known under a title too: ``mine`` writes its corpus with the query of each text as its title.
    """
    there = {same_text(text) for text in corpus.values()}
    found: dict[str, str] = {}
    for document in read_documents(path):
        text = same_text(document.text)
        if there.isdisjoint((text, same_text(document.bare) or text)):
            found.setdefault(text, document.text)
    numbers = (number for number in itertools.count() if f"extra-{number}" not in corpus)
    return {f"extra-{number}": text for number, text in zip(numbers, found.values(), strict=False)}


def self_documents(retrieval: Retrieval) -> dict[int, int]:
    """Return, for each query that is itself a document (same name, text within its text), the document's index.

    ArguAna and Quora are made so; their query must not find itself. Equal names alone are no sign of it.
    """
    index = {name: place for place, name in enumerate(retrieval.corpus)}
    return {
        row: index[query]
        for row, (query, text) in enumerate(retrieval.queries.items())
        if query in index and query not in retrieval.qrels[query] and text.strip() in retrieval.corpus[query]
    }


def evaluate_retrieval(encoder: LoadedEncoder, retrieval: Retrieval, settings: EvaluateSettings) -> dict[str, float]:
    """Return the encoder's metrics on ``retrieval``."""
    queries = encode_texts(encoder, list(retrieval.queries.values()), "queries", batch_size=settings.batch_size)
    documents = encode_texts(encoder, list(retrieval.corpus.values()), "documents", batch_size=settings.batch_size)
    return _metrics(retrieval, lambda block: encoder.model.similarity(queries[block], documents), settings)


def evaluate_bm25(retrieval: Retrieval, settings: EvaluateSettings) -> dict[str, Any]:
    """Return BM25's parameters and its metrics on ``retrieval``, through the same ranking and metric code."""
    index = Bm25(list(retrieval.corpus.values()))
    texts = list(retrieval.queries.values())
    metrics = _metrics(retrieval, lambda block: index.scores(texts[block]), settings)
    return {"parameters": index.describe(), "metrics": metrics}


def _metrics(retrieval: Retrieval, score_block: Callable[[slice], Tensor], settings: EvaluateSettings) -> dict[str, float]:
    ranking = rank_all(
        list(retrieval.queries), list(retrieval.corpus), score_block, same=self_documents(retrieval), seed=settings.seed
    )
    return retrieval_metrics(ranking, retrieval.qrels)


def describe_retrieval(encoder: LoadedEncoder, retrieval: Retrieval, *, source: str) -> dict[str, Any]:
    """Return counts, digest and how many texts the encoder has to truncate."""
    limit = encoder.model.max_seq_length or 2**31
    long_queries = sum(count > limit for count in count_tokens(encoder, list(retrieval.queries.values()), "queries"))
    long_documents = sum(count > limit for count in count_tokens(encoder, list(retrieval.corpus.values()), "documents"))
    return {
        "source": source,
        "digest": digest_json([list(retrieval.queries.items()), list(retrieval.corpus.items()), retrieval.qrels]),
        "queries": len(retrieval.queries),
        "documents": len(retrieval.corpus),
        "truncated_queries": long_queries,
        "truncated_documents": long_documents,
    }
