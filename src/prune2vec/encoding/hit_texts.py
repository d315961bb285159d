"""The texts of hits, from the corpus that was encoded and from no other."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune2vec.data.documents import Document
from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode import document_bytes
from prune2vec.encoding.vector_folder import VectorFolder
from prune2vec.errors import EncodingError


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part with hits, whose texts are compared with those it was made from.

    Attributes:
        rows: Its rows in the corpus.
        expected: SHA-256 over its documents; None where it was written without.
        digest: Over those seen so far, so that no text is kept.
    """

    rows: range
    expected: str | None
    digest: Any = field(default_factory=hashlib.sha256)


def read_texts(folder: VectorFolder, names: Mapping[int, str], corpus: Path) -> dict[int, str]:
    """Return the texts of some rows by their numbers in the corpus, which is read once and not kept.

    Args:
        folder: The vectors.
        names: Id of each row that is wanted, by the row's number among the vectors.
        corpus: The file that was encoded.

    Raises:
        EncodingError: A part that holds such a row was made from other texts than those of the file.
        DataError: The file cannot be read.
    """
    settings = folder.first.identity.get("settings", {})
    source = Corpus(path=corpus, text_column=settings.get("text_column", "text"), id_column=settings.get("id_column"))
    ids = {folder.corpus_row(row): name for row, name in names.items()}
    waiting = _parts_with(folder, names)
    texts: dict[int, str] = {}
    wrong = f"{corpus} is not what {folder.folder} was made from"
    for row, document in enumerate(source.documents()):
        parts = waiting.get(row % folder.shards)
        if not parts or row < parts[0].rows.start:
            continue
        parts[0].digest.update(document_bytes(document))
        if row in ids:
            texts[row] = _own(document, row, ids[row], wrong)
        if row == parts[0].rows[-1]:
            _check(parts.popleft(), wrong)
            if not any(waiting.values()):
                return texts
    ends = [parts[0].rows[-1] for parts in waiting.values() if parts]
    if ends:
        raise EncodingError(f"{wrong}: it ends before row {min(ends) + 1:,}")
    return texts


def _parts_with(folder: VectorFolder, rows: Iterable[int]) -> dict[int, deque[_Part]]:
    """Return the parts that rows are in, of each shard, in order."""
    parts: dict[int, deque[_Part]] = {}
    for number in sorted({folder.part_of(row) for row in rows}):
        shard, _, entry = folder.parts[number]
        part = _Part(rows=folder.corpus_rows[number], expected=entry.get("source_sha256"))
        parts.setdefault(shard, deque()).append(part)
    return parts


def _own(document: Document, row: int, name: str, wrong: str) -> str:
    if document.id != name:
        raise EncodingError(f"{wrong}: row {row + 1:,} is {document.id!r}, not {name!r}")
    return document.text


def _check(part: _Part, wrong: str) -> None:
    if part.expected is not None and part.digest.hexdigest() != part.expected:
        step = f" in steps of {part.rows.step}" if part.rows.step > 1 else ""
        raise EncodingError(f"{wrong}: rows {part.rows[0] + 1:,} to {part.rows[-1] + 1:,}{step} hold other texts or ids")
