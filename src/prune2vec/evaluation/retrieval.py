"""Ranking documents for queries, with ties settled; BM25's scores; and the metrics of a ranking (by trec_eval)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune2vec.evaluation.results import METRICS

TOP_K = 100
_STEPS_PER_UNIT = 1_000_000
_CELLS = 1 << 24

Ranking = dict[str, list[str]]


def tie_order(count: int, *, seed: int) -> Tensor:
    """Return a random place for each of ``count`` documents; of two with the same score, the one with the lower place wins.

    File order would not do: in a file of triplets every positive stands before its own negatives and would win all ties.
    """
    return torch.from_numpy(np.random.default_rng(seed).permutation(count))


def top_documents(scores: Tensor, places: Tensor, *, k: int = TOP_K) -> Tensor:
    """Return the indices of the best ``k`` documents of each query, best first.

    Scores are compared in steps of a millionth, so that rounding noise between equal texts does not decide.

    Args:
        scores: Scores, (queries, documents); ``-inf`` excludes a document only from being preferred.
        places: From ``tie_order``, (documents,).
        k: How many.

    Returns:
        Indices, (queries, min(k, documents)).
    """
    documents = scores.shape[1]
    steps = torch.clamp(scores.double() * _STEPS_PER_UNIT, -(2**61 // documents), 2**61 // documents).round().long()
    # One integer per pair, all different within a query: the order is total, and so is the same everywhere.
    return (steps * documents - places).topk(min(k, documents), dim=1).indices


def rank_all(
    query_ids: Sequence[str],
    document_ids: Sequence[str],
    score_block: Callable[[slice], Tensor],
    *,
    same: Mapping[int, int],
    seed: int,
) -> Ranking:
    """Rank the documents for every query.

    Args:
        query_ids: Queries, in the order of the score rows.
        document_ids: Documents, in the order of the score columns.
        score_block: Gives the scores of a slice of queries, (queries, documents); a score of ``-inf`` means: not found.
        same: Query index to the index of the document that is the query itself, which is not to be found.
        seed: Settles ties.
    """
    places = tie_order(len(document_ids), seed=seed)
    ranking: Ranking = {}
    # A block's matrix of scores has at most 16 million cells.
    step = max(1, _CELLS // max(len(document_ids), 1))
    for start in range(0, len(query_ids), step):
        block = slice(start, min(start + step, len(query_ids)))
        scores = score_block(block).float()
        for row in range(block.start, block.stop):
            if row in same:
                scores[row - block.start, same[row]] = -math.inf
        best = top_documents(scores, places)
        found = scores.gather(1, best).isfinite()
        for row, (indices, keep) in enumerate(zip(best.tolist(), found.tolist(), strict=True)):
            hits = [document_ids[index] for index, ok in zip(indices, keep, strict=True) if ok]
            ranking[query_ids[block.start + row]] = hits
    return ranking


def retrieval_metrics(ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    """Return nDCG@10, MRR@10 and recall@1/10/100, each averaged over the queries of ``qrels``.

    Graded judgements count in nDCG; a query whose ranking is empty counts as 0.
    """
    import pytrec_eval

    # trec_eval sorts by score and settles ties by name: falling scores hand it our order as it is.
    run = {query: {document: float(-place) for place, document in enumerate(ids)} for query, ids in ranking.items()}
    top = {query: {document: score for document, score in scores.items() if score > -10} for query, scores in run.items()}
    judged = {query: dict(grades) for query, grades in qrels.items()}
    whole = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.1,10,100"}).evaluate(run)
    first_ten = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(top)

    def mean(scores: Mapping[str, Mapping[str, float]], name: str) -> float:
        return math.fsum(scores.get(query, {}).get(name, 0.0) for query in judged) / len(judged)

    values = [mean(whole, "ndcg_cut_10"), mean(first_ten, "recip_rank")]
    values += [mean(whole, f"recall_{k}") for k in (1, 10, 100)]
    return dict(zip(METRICS, values, strict=True))


class Bm25:
    """An index over documents (Lucene's BM25, k1 1.5, b 0.75, English stop words, no stemming)."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._size = len(documents)
        tokens = bm25s.tokenize(list(documents), stopwords="english", show_progress=False, return_ids=False)
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def describe(self) -> dict[str, Any]:
        """Return the parameters, to be stored beside the scores."""
        index = self._index
        return {"method": index.method, "k1": index.k1, "b": index.b, "stopwords": "english", "stemmer": None}

    def scores(self, queries: Sequence[str]) -> Tensor:
        """Return the scores, (queries, documents); ``-inf`` where no word of the query is in the document."""
        import bm25s

        rows = bm25s.tokenize(list(queries), stopwords="english", show_progress=False, return_ids=False)
        none = np.zeros(self._size, dtype=np.float32)
        found = [self._index.get_scores(words) if words and not self._empty else none for words in rows]
        scores = torch.from_numpy(np.stack(found))
        return scores.masked_fill(scores <= 0, -math.inf)
