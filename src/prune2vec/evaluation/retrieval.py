"""Retrieval: own data, a sample of it, documents ranked with ties settled, BM25 beside them, and metrics (by trec_eval)."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from prune2vec.data.beir import Retrieval, is_beir, read_beir, triplets_as_retrieval
from prune2vec.data.documents import read_documents, same_text
from prune2vec.data.pairs import WORD
from prune2vec.data.reader import load_triplets
from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, Side, encode_texts, side_prompt
from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.evaluation.results import METRICS
from prune2vec.files import digest_json
from prune2vec.models.tokens import token_ids
from prune2vec.progress import say

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

TOP_K = 100
SIMILARITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda queries, documents: normalize(queries) @ normalize(documents).T,
    "dot": lambda queries, documents: queries @ documents.T,
    "euclidean": lambda queries, documents: -torch.cdist(queries, documents, p=2.0),
    "manhattan": lambda queries, documents: -torch.cdist(queries, documents, p=1.0),
}
"""sentence-transformers' similarities of (query, dim) and (document, dim), (query, document): larger is more alike."""
BM25: dict[str, Any] = {"method": "lucene", "k1": 1.5, "b": 0.75}
_TOKENS: dict[str, Any] = {"token_pattern": WORD.pattern, "stopwords": "english", "show_progress": False, "return_ids": False}
_STEPS_PER_UNIT = 1_000_000
_CELLS = 1 << 24

Ranking = dict[str, list[str]]


def load_retrieval(source: Path | str, settings: EvaluateSettings) -> Retrieval:
    """Read held-out triplets (file, folder or hub dataset) or a BEIR folder, plus the extra corpus of the settings.

    Raises:
        DataError: It cannot be read.
        EvaluationError: It holds no query with a relevant document, or none of these in the corpus.
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
    relevant = [name for grades in qrels.values() for name, grade in grades.items() if grade > 0]
    if retrieval.corpus.keys().isdisjoint(relevant):
        raise EvaluationError(
            f"{source}: none of the relevant documents is in the corpus, such as {relevant[0]!r}; are their ids others?"
        )
    corpus = dict(retrieval.corpus)
    if settings.corpus is not None:
        corpus |= _distractors(settings.corpus, corpus)
    if len(corpus) == 1:
        say(f"{source} holds one document, which every encoder finds; give more of them, or a corpus")
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


def _chosen(
    settings: EvaluateSettings, queries: Sequence[str], documents: Sequence[str], qrels: Mapping[str, Mapping[str, int]]
) -> tuple[list[int], list[int]]:
    """Return the places of the queries and of the documents that are kept, in their order.

    A smaller sample is part of a larger one of the same seed. Scores of a sample are higher than the whole task's, and only
    comparable with each other.
    """

    def drawn(places: Sequence[int], count: int | None) -> list[int]:
        order = list(places)
        if count is None or count >= len(order):
            return order
        random.Random(settings.seed).shuffle(order)
        return sorted(order[:count])

    kept, most = drawn(range(len(queries)), settings.max_queries), settings.max_documents
    relevant = {name for place in kept for name, grade in qrels.get(queries[place], {}).items() if grade > 0}
    needed = [place for place, name in enumerate(documents) if name in relevant]
    others = [place for place, name in enumerate(documents) if name not in relevant]
    return kept, sorted([*needed, *drawn(others, None if most is None else max(0, most - len(needed)))])


def sampling_note(*, queries: tuple[int, int], documents: tuple[int, int], seed: int) -> str:
    """Return how many are kept of how many, ``(1,000 of 5,183 documents, 50 of 300 queries)``; nothing where all are.

    Another seed than the usual one is named: another sample is another task.
    """
    pairs = {"documents": documents, "queries": queries}
    parts = [f"{kept:,} of {there:,} {what}" for what, (kept, there) in pairs.items() if kept < there]
    parts += [f"seed {seed}"] if parts and seed != EvaluateSettings.model_fields["seed"].default else []
    return f"({', '.join(parts)})" if parts else ""


def sample_retrieval(retrieval: Retrieval, settings: EvaluateSettings) -> tuple[Retrieval, str]:
    """Return the sample of a retrieval task, and its note."""
    if settings.max_queries is None and settings.max_documents is None:
        return retrieval, ""
    names, documents = list(retrieval.queries), list(retrieval.corpus)
    kept, found = _chosen(settings, names, documents, retrieval.qrels)
    chosen = [names[place] for place in kept]
    corpus = {documents[place]: retrieval.corpus[documents[place]] for place in found}
    lost = retrieval.corpus.keys() - corpus.keys()
    sample = Retrieval(
        queries={name: retrieval.queries[name] for name in chosen},
        corpus=corpus,
        qrels={name: _without(retrieval.qrels[name], lost) for name in chosen},
    )
    return sample, sampling_note(queries=(len(kept), len(names)), documents=(len(found), len(documents)), seed=settings.seed)


def sample_task(task: AbsTask, settings: EvaluateSettings) -> str:
    """Cut a loaded MTEB retrieval task down in place and return its note; other tasks stay whole, with an empty note."""
    from mteb.abstasks import AbsTaskRetrieval

    if not isinstance(task, AbsTaskRetrieval) or (settings.max_queries is None and settings.max_documents is None):
        return ""
    task.convert_v1_dataset_format_to_v2(num_proc=None)
    counts = [(0, 0, 0, 0)]
    for data in (data for splits in task.dataset.values() for data in splits.values()):
        # Where each query has candidates of its own to be reranked, there is no corpus to sample from.
        if data["top_ranked"] is not None:
            continue
        qrels, documents = data["relevant_docs"], list(data["corpus"]["id"])
        judged = {name: place for place, name in enumerate(data["queries"]["id"]) if qrels.get(name)}
        names = list(judged)
        kept, found = _chosen(settings, names, documents, qrels)
        lost = set(documents) - {documents[place] for place in found}
        data["queries"] = data["queries"].select([judged[names[place]] for place in kept])
        data["corpus"] = data["corpus"].select(found)
        data["relevant_docs"] = {names[place]: _without(qrels[names[place]], lost) for place in kept}
        counts.append((len(kept), len(judged), len(found), len(documents)))
    some_queries, queries, some_documents, all_documents = map(sum, zip(*counts, strict=True))
    return sampling_note(queries=(some_queries, queries), documents=(some_documents, all_documents), seed=settings.seed)


def _without(grades: Mapping[str, int], lost: Container[str]) -> dict[str, int]:
    """Drop judgements of documents that were not drawn; of those that the task never had, they stay, as not found."""
    return {name: grade for name, grade in grades.items() if name not in lost}


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


def evaluate_retrieval(encoder: LoadedEncoder, retrieval: Retrieval, settings: EvaluateSettings) -> dict[str, Any]:
    """Return the encoder's ``metrics`` on ``retrieval``, and the ``items`` behind nDCG@10."""
    queries = encode_texts(encoder, list(retrieval.queries.values()), "queries", batch_size=settings.batch_size)
    documents = encode_texts(encoder, list(retrieval.corpus.values()), "documents", batch_size=settings.batch_size)
    similarity = SIMILARITIES[encoder.model.similarity_fn_name]
    return _scored(retrieval, lambda block: similarity(queries[block], documents), settings)


def evaluate_bm25(retrieval: Retrieval, settings: EvaluateSettings) -> dict[str, Any]:
    """Return BM25's parameters and what ``evaluate_retrieval`` does, through the same ranking and metric code."""
    index = Bm25(list(retrieval.corpus.values()))
    texts = list(retrieval.queries.values())
    scored = _scored(retrieval, lambda block: index.scores(texts[block]), settings)
    return {"parameters": {**BM25, "stopwords": "english", "stemmer": None}, **scored}


def _scored(retrieval: Retrieval, score_block: Callable[[slice], Tensor], settings: EvaluateSettings) -> dict[str, Any]:
    ranking = rank_all(
        list(retrieval.queries), list(retrieval.corpus), score_block, same=self_documents(retrieval), seed=settings.seed
    )
    each = query_metrics(ranking, retrieval.qrels)
    ranks = (
        next((place for place, name in enumerate(ranking[query], start=1) if grades.get(name, 0) > 0), 0)
        for query, grades in retrieval.qrels.items()
    )
    items = ItemScores.of(each[METRICS[0]], items=[retrieval.queries, retrieval.qrels], ranks=ranks, unit="queries")
    return {"metrics": {metric: statistics.fmean(scores) for metric, scores in each.items()}, "items": asdict(items)}


def describe_retrieval(encoder: LoadedEncoder, retrieval: Retrieval, *, source: str) -> dict[str, Any]:
    """Return counts, digest and how many texts the encoder has to truncate."""

    def truncated(texts: Mapping[str, str], side: Side) -> int:
        model = encoder.of(side).model
        rows = token_ids(model.tokenizer, list(texts.values()), prompt=side_prompt(model, side))
        return sum(len(row) > (model.max_seq_length or 2**31) for row in rows)

    return {
        "source": source,
        "digest": retrieval_digest(retrieval),
        "queries": len(retrieval.queries),
        "documents": len(retrieval.corpus),
        "truncated_queries": truncated(retrieval.queries, "queries"),
        "truncated_documents": truncated(retrieval.corpus, "documents"),
    }


def retrieval_digest(retrieval: Retrieval) -> str:
    """Return a digest of all texts and judgements, in their order."""
    return digest_json([list(retrieval.queries.items()), list(retrieval.corpus.items()), retrieval.qrels])


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
    """Return nDCG@10, MRR@10 and recall@1/10/100, each averaged over the queries of ``qrels``."""
    return {metric: statistics.fmean(scores) for metric, scores in query_metrics(ranking, qrels).items()}


def query_metrics(ranking: Ranking, qrels: Mapping[str, Mapping[str, int]]) -> dict[str, list[float]]:
    """Return nDCG@10, MRR@10 and recall@1/10/100 of each query of ``qrels``.

    Graded judgements count in nDCG; a query whose ranking is empty counts as 0.
    """
    import pytrec_eval

    # trec_eval sorts by score and settles ties by name: falling scores hand it our order as it is.
    run = {query: {document: float(-place) for place, document in enumerate(ids)} for query, ids in ranking.items()}
    top = {query: {document: score for document, score in scores.items() if score > -10} for query, scores in run.items()}
    judged = {query: dict(grades) for query, grades in qrels.items()}
    whole = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10", "recall.1,10,100"}).evaluate(run)
    first_ten = pytrec_eval.RelevanceEvaluator(judged, {"recip_rank"}).evaluate(top)
    found = [(whole, "ndcg_cut_10"), (first_ten, "recip_rank"), *((whole, f"recall_{k}") for k in (1, 10, 100))]
    return {
        metric: [scores.get(query, {}).get(name, 0.0) for query in judged]
        for metric, (scores, name) in zip(METRICS, found, strict=True)
    }


class Bm25:
    """An index over documents: Lucene's BM25, English stop words, no stemming; each letter of an unspaced script is a word."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        self._index = bm25s.BM25(**BM25)
        self._size = len(documents)
        tokens = bm25s.tokenize(list(documents), **_TOKENS)
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> Tensor:
        """Return the scores, (queries, documents); ``-inf`` where no word of the query is in the document."""
        import bm25s

        rows = bm25s.tokenize(list(queries), **_TOKENS)
        none = np.zeros(self._size, dtype=np.float32)
        found = [self._index.get_scores(words) if words and not self._empty else none for words in rows]
        scores = torch.from_numpy(np.stack(found))
        return scores.masked_fill(scores <= 0, -math.inf)
