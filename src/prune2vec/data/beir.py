"""Retrieval data: queries, documents and who answers whom; from a BEIR folder or from triplets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prune2vec.data.documents import Document, read_documents, same_text
from prune2vec.data.rows import SourceRow, id_text, read_rows
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError, did_you_mean
from prune2vec.progress import say

# Of numbers beyond 32 bits trec_eval makes none.
_HIGHEST = 1_000_000
_JUDGED = (".tsv", ".jsonl", ".csv", ".parquet")
# What a column of judgements is called, in small letters without anything between them; earlier names before later ones.
_COLUMNS = {
    "query-id": ("queryid", "qid", "query", "topicid", "topic"),
    "corpus-id": ("corpusid", "docid", "did", "pid", "documentid", "passageid", "corpus", "document", "doc"),
    "score": ("score", "relevance", "rel", "label", "grade", "judgment", "judgement"),
}
_DEFAULT_SPLIT = "test"


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """A retrieval task: texts by their ids, and for each query the relevance (above 0: relevant) by document id."""

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]


def is_beir(folder: Path) -> bool:
    """Return whether a folder holds retrieval data in BEIR's layout (a corpus file and a queries file)."""
    return all(_find(folder, name) is not None for name in ("corpus.jsonl", "queries.jsonl"))


def read_beir(folder: Path, split: str = _DEFAULT_SPLIT) -> Retrieval:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` or ``qrels.jsonl`` (all perhaps with ``.gz``).

    A document's text is title, blank, text. Queries without judgements in the split are left out.

    Raises:
        DataError: A file is missing or broken, a judgement names a query that is not there, or an id is given to two texts
            or a judgement two scores; with file and line.
    """
    documents = {document.id: document.text for document in beir_texts(folder, "corpus.jsonl")}
    queries = {query.id: query.bare for query in beir_texts(folder, "queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    for row in read_rows(_judgements(folder, split)):
        query, document, score = _judgement(row)
        if query not in queries:
            raise DataError(f"{row.where}: query {query!r} is not in the queries file")
        if qrels.setdefault(query, {}).setdefault(document, score) != score:
            raise DataError(f"{row.where}: query {query!r} and document {document!r} have another score in an earlier row")
    judged = {query: text for query, text in queries.items() if query in qrels}
    lost = sum(document not in documents for found in qrels.values() for document in found)
    if lost:
        # Kept, because dropping them would raise recall without a word.
        say(f"{folder}: {lost} judged documents are not in the corpus; they count as not found")
    return Retrieval(queries=judged, corpus=documents, qrels={query: qrels[query] for query in judged})


def triplets_as_retrieval(triplets: Iterable[Triplet]) -> Retrieval:
    """Make a retrieval task of triplets: documents are the distinct positives and negatives, relevant the own positives.

    Rows with the same anchor are one query with several relevant documents. Texts that differ in blanks alone are the same
    (``same_text``), and stand as they came first. Ids are ``q0``, ``q1``, ... and ``d0``, ``d1``, ... in that order.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    names: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}

    def name_of(text: str, kind: str, texts: dict[str, str]) -> str:
        name = names.setdefault(kind + same_text(text), f"{kind}{len(texts)}")
        texts.setdefault(name, text)
        return name

    for triplet in triplets:
        query = name_of(triplet.anchor, "q", queries)
        found = [name_of(text, "d", documents) for text in triplet.texts[1:]]
        qrels.setdefault(query, {})[found[0]] = 1
    return Retrieval(queries=queries, corpus=documents, qrels=qrels)


def _find(folder: Path, name: str) -> Path | None:
    return next((path for packed in ("", ".gz") if (path := folder / (name + packed)).is_file()), None)


def beir_texts(folder: Path, name: str) -> Iterator[Document]:
    """Yield the texts of a BEIR folder's ``corpus.jsonl`` or ``queries.jsonl``, perhaps packed; one that is not there is a DataError."""
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder}: no {name} or {name}.gz in this folder; expected corpus.jsonl, queries.jsonl and qrels")
    return read_documents(path, id_column="_id")


def _judgements(folder: Path, split: str) -> Path:
    for suffix in _JUDGED:
        path = _find(folder, f"qrels/{split}{suffix}")
        if path is not None:
            return path
    known = sorted({path.name.partition(".")[0] for path in (folder / "qrels").glob("*.*")})
    if known:
        raise DataError(f"{folder}: no qrels for split {split!r}{did_you_mean(split, known)}")
    if split != _DEFAULT_SPLIT:
        raise DataError(f"{folder}: no qrels folder, so there is no split {split!r}; leave the split out")
    path = next((path for suffix in _JUDGED if (path := _find(folder, f"qrels{suffix}"))), None)
    if path is None:
        raise DataError(
            f"{folder}: no qrels.jsonl or qrels.jsonl.gz in this folder (nor {', '.join(_JUDGED)}); "
            "expected corpus.jsonl, queries.jsonl and qrels"
        )
    return path


def _judgement(row: SourceRow) -> tuple[str, str, int]:
    """Return query id, document id and score of a row; ``query-id`` is also ``query_id``, ``Query ID`` or ``qid``."""
    plain = {column: re.sub(r"[^a-z]", "", column.lower()) for column in row.values}
    columns = {
        name: next((column for alias in known for column in plain if plain[column] == alias), None)
        for name, known in _COLUMNS.items()
    }
    ids = []
    for name in ("query-id", "corpus-id"):
        column = columns[name]
        if column is None:
            found = ", ".join(sorted(row.values))
            raise DataError(
                f"{row.where}: no {name!r}; found {found}; expected query-id, corpus-id and score in the first line"
            )
        ids.append(id_text(row, column, row.values[column]))
    value = 1 if columns["score"] is None else row.values[columns["score"]]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not number.is_integer() or abs(number) > _HIGHEST:
        raise DataError(f"{row.where}: score is {value!r}, expected a whole number up to {_HIGHEST:,}")
    return ids[0], ids[1], int(number)
