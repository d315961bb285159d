"""Retrieval data: queries, documents and who answers whom; from a BEIR folder or from triplets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prune2vec.errors import DataError, did_you_mean
from prune2vec.progress import say
from prune2vec.texts.formats import Row, formats
from prune2vec.texts.triplet import Triplet

_PACKED = ("", ".gz")
_DEFAULT_SPLIT = "test"


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """A retrieval task.

    Attributes:
        queries: Text by query id.
        corpus: Text by document id.
        qrels: For each query, the relevance (above 0: relevant) by document id.
    """

    queries: dict[str, str]
    corpus: dict[str, str]
    qrels: dict[str, dict[str, int]]


def is_beir(folder: Path) -> bool:
    """Return whether a folder holds retrieval data in BEIR's layout (a corpus file and a queries file)."""
    return all(_find(folder, name) is not None for name in ("corpus.jsonl", "queries.jsonl"))


def read_beir(folder: Path, split: str = _DEFAULT_SPLIT) -> Retrieval:
    """Read ``corpus.jsonl``, ``queries.jsonl`` and ``qrels/<split>.tsv`` or ``qrels.jsonl`` (all but TSV also with ``.gz``).

    A document's text is title, blank, text. Queries without judgements in the split are left out.

    Raises:
        DataError: A file is missing or broken, or a judgement names a query that is not there; with file and line.
    """
    documents = {_field(row, "_id"): _document(row) for row in _rows(folder, "corpus.jsonl")}
    queries = {_field(row, "_id"): _field(row, "text") for row in _rows(folder, "queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    for row in _judgements(folder, split):
        query, document = _field(row, "query-id"), _field(row, "corpus-id")
        if query not in queries:
            raise DataError(f"{row.where}: query {query!r} is not in the queries file")
        qrels.setdefault(query, {})[document] = _score(row)
    judged = {query: text for query, text in queries.items() if query in qrels}
    lost = sum(document not in documents for found in qrels.values() for document in found)
    if lost:
        # Kept, because dropping them would raise recall without a word.
        say(f"{folder}: {lost} judged documents are not in the corpus; they count as not found")
    return Retrieval(queries=judged, corpus=documents, qrels={query: qrels[query] for query in judged})


def triplets_as_retrieval(triplets: Iterable[Triplet]) -> Retrieval:
    """Make a retrieval task of triplets: documents are the distinct positives and negatives, relevant the own positives.

    Rows with the same anchor are one query with several relevant documents. Ids are ``q0``, ``q1``, ... and ``d0``, ``d1``,
    ... in order of first appearance.
    """
    queries: dict[str, str] = {}
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for triplet in triplets:
        query = queries.setdefault(triplet.anchor, f"q{len(queries)}")
        for text in triplet.texts[1:]:
            documents.setdefault(text, f"d{len(documents)}")
        qrels.setdefault(query, {})[documents[triplet.positive]] = 1
    return Retrieval(
        queries={name: text for text, name in queries.items()},
        corpus={name: text for text, name in documents.items()},
        qrels=qrels,
    )


def _find(folder: Path, name: str) -> Path | None:
    return next((path for packed in _PACKED if (path := folder / (name + packed)).is_file()), None)


def _rows(folder: Path, name: str) -> Iterator[Row]:
    path = _find(folder, name)
    if path is None:
        raise DataError(f"{folder}: no {name} or {name}.gz in this folder; expected corpus.jsonl, queries.jsonl and qrels")
    return _filled(path, formats.get(".jsonl")(path))


def _judgements(folder: Path, split: str) -> Iterator[Row]:
    for name, suffix in ((f"qrels/{split}.tsv", ".tsv"), (f"qrels/{split}.jsonl", ".jsonl")):
        path = _find(folder, name)
        if path is not None:
            return _filled(path, formats.get(suffix)(path))
    known = sorted({path.name.partition(".")[0] for path in (folder / "qrels").glob("*.*")})
    if known:
        raise DataError(f"{folder}: no qrels for split {split!r}{did_you_mean(split, known)}")
    if split != _DEFAULT_SPLIT:
        raise DataError(f"{folder}: no qrels folder, so there is no split {split!r}; leave the split out")
    return _rows(folder, "qrels.jsonl")


def _filled(path: Path, rows: Iterator[Row]) -> Iterator[Row]:
    row = None
    for row in rows:
        yield row
    if row is None:
        raise DataError(f"{path}: no rows")


def _field(row: Row, name: str) -> str:
    value = row.values.get(name)
    if value is None:
        raise DataError(f"{row.where}: no {name!r}; found {', '.join(sorted(map(str, row.values)))}")
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise DataError(f"{row.where}: {name} is {type(value).__name__}, expected a string")
    return str(value)


def _document(row: Row) -> str:
    title = row.values.get("title") or ""
    if not isinstance(title, str):
        raise DataError(f"{row.where}: title is {type(title).__name__}, expected a string")
    text = _field(row, "text")
    return f"{title} {text}" if title else text


def _score(row: Row) -> int:
    value = row.values.get("score", 1)
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{row.where}: score is {value!r}, expected a whole number") from error
