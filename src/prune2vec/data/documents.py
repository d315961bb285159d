"""A document as every verb reads it: its title, where it has one, and its text; with its id where it has one.

Texts are taken as they stand, blanks at their ends included: their vectors are those of ``SentenceTransformer.encode``. Two
texts that differ in blanks alone are one and the same (``same_text``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prune2vec.data.rows import (
    FORMATS,
    SourceRow,
    id_text,
    known_suffixes,
    no_rows,
    read_lines,
    read_rows,
    sound_text,
    suffix_of,
)
from prune2vec.errors import DataError, did_you_mean
from prune2vec.progress import say

_ID_COLUMNS = ("_id", "id")
_TEXT, _TITLE = "text", "title"


class Document(NamedTuple):
    """One document of a corpus.

    Attributes:
        id: Its id in the corpus, or the number of its row.
        text: Title, blank, text; the one of them that holds more than blanks, if only one does. It may be empty.
        bare: The text without the title.
        has_id: Whether the id is the corpus's own.
    """

    id: str
    text: str
    bare: str
    has_id: bool = False


def read_documents(path: Path, *, text_column: str = _TEXT, id_column: str | None = None) -> Iterator[Document]:
    """Yield the documents of a file in its order: .txt with one text a line, or rows in any known format.

    Of documents that come twice, with one id and one text, the first is taken, and one line at the end counts the others.
    They are known by 64 bits each of the id and the text; no text is kept.

    Args:
        path: The file.
        text_column: Column with the text; a title is put before the column ``text`` alone.
        id_column: Column with the id; None takes ``_id`` or ``id``, else the row's number.

    Raises:
        DataError: The file cannot be read or holds no row, a row lacks its text or id, or two rows have one id and other
            texts; with file and line.
    """
    if path.is_dir():
        raise DataError(f"{path}: a folder; name the file of documents in it")
    if suffix_of(path) not in (".txt", *FORMATS):
        raise DataError(f"{path}: unknown kind of file; expected .txt, {known_suffixes()}")
    return _documents(path, text_column, id_column)


def _documents(path: Path, text_column: str, id_column: str | None) -> Iterator[Document]:
    if suffix_of(path) == ".txt":
        number = 0
        for number, line in read_lines(path):
            text = line.rstrip("\r\n")
            yield Document(str(number - 1), text, text)
        if not number:
            raise no_rows(path)
        return
    seen: dict[int, int] = {}
    twice, numbers = 0, _Numbers()
    for row in read_rows(path):
        (text, bare), name = full_text(row, text_column), document_id(row, id_column)
        document = Document(id=str(row.number) if name is None else name, text=text, bare=bare, has_id=name is not None)
        numbers.check(row, document, named=hash(document.id) in seen)
        # Without an id of its own a row is known by its number, of which there is one.
        if document.has_id:
            key, digest = hash(document.id), hash(document.text)
            before = seen.get(key)
            if before == digest:
                twice += 1
                continue
            if before is not None:
                _check_alone(path, row, document.id, id_column)
            seen[key] = digest
        yield document
    if twice:
        say(f"{path}: left out {twice} documents that come twice, with the same id and text")


class _Numbers:
    """The numbers of rows without an id: all of those before the first row that has one, and single ones after it."""

    def __init__(self) -> None:
        self._first_id: int | None = None
        self._later: set[int] = set()

    def check(self, row: SourceRow, document: Document, *, named: bool) -> None:
        """Refuse, with a ``DataError``, an id that is the number of a row without one; ``named`` says that a row has this id."""
        if not document.has_id:
            if named:
                raise DataError(
                    f"{row.where}: no id, and its number {document.id!r} is an earlier row's id; give each row an id"
                )
            if self._first_id is not None:
                self._later.add(row.number)
            return
        self._first_id = row.number if self._first_id is None else self._first_id
        if document.id.isdecimal() and (int(document.id) < self._first_id or int(document.id) in self._later):
            raise DataError(
                f"{row.where}: id {document.id!r} is that of an earlier row without one, its number; give each row an id"
            )


def _check_alone(path: Path, row: SourceRow, name: str, id_column: str | None) -> None:
    """Refuse an id that an earlier row has; two ids may have one hash."""
    for earlier in read_rows(path):
        if earlier.number >= row.number:
            return
        if document_id(earlier, id_column) == name:
            raise DataError(
                f"{earlier.where} and {row.where} have the same id {name!r} and other texts; give each an id of its own"
            )


def full_text(row: SourceRow, text_column: str = _TEXT) -> tuple[str, str]:
    """Return a row's text with its title before it, and without; anything else is a ``DataError`` with file and line."""
    if text_column not in row.values:
        hint = did_you_mean(text_column, list(map(str, row.values)))
        raise DataError(f"{row.where}: no column {text_column!r}{hint} (encode alone reads another one: --text-column)")
    bare = sound_text(row, text_column, row.values[text_column])
    title = row.values.get(_TITLE) if text_column == _TEXT else None
    title = "" if title is None else sound_text(row, _TITLE, title)
    if not title.strip():
        return bare, bare
    return f"{title} {bare}" if bare.strip() else title, bare


def same_text(text: str) -> str:
    """Return what is equal for texts that are the same, whichever way they came in: the text without the kind of its blanks."""
    return " ".join(text.split())


def document_id(row: SourceRow, column: str | None = None) -> str | None:
    """Return the id of a row in ``column``, or else in ``_id`` or ``id``; None where it has neither."""
    if column is not None and column not in row.values:
        hint = did_you_mean(column, list(map(str, row.values)))
        raise DataError(f"{row.where}: no column {column!r}{hint} (encode takes another one with --id-column)")
    for name in _ID_COLUMNS if column is None else (column,):
        if name in row.values:
            return id_text(row, name, row.values[name])
    return None
