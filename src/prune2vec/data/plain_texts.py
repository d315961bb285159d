"""Texts without labels, to learn a teacher's vectors from: documents, lines, paragraphs, or the sides of triplets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from prune2vec.data.documents import full_text, read_documents
from prune2vec.data.folders import visible_files
from prune2vec.data.reader import read_tables, triplets_of
from prune2vec.data.rows import FORMATS, SourceRow, read_lines, read_rows, suffix_of
from prune2vec.errors import DataError
from prune2vec.progress import say

Sources = str | Path | Sequence[str | Path]
_LINES = ".txt"
_DOCUMENTS = (_LINES, ".md", ".markdown", ".mdx", ".rst")


class PlainText(NamedTuple):
    """One text, and the id of its document: its own, the number of its row, or none where a file holds other things."""

    id: str
    text: str

    @property
    def texts(self) -> tuple[str]:
        """The text alone, as a row of triplets has all of its own."""
        return (self.text,)


def load_texts(sources: Sources) -> list[PlainText]:
    """Read all texts of one or several sources, in order, equal ones as often as they come; blank ones are passed over, and said.

    Raises:
        DataError: As ``read_texts``; or there is no source, or no text that is not blank.
    """
    listed = [sources] if isinstance(sources, str | Path) else list(sources)
    if not listed or not all(isinstance(one, str | Path) for one in listed):
        raise DataError(f"expected files, folders or hub data sets of plain texts, got {sources!r}")
    found: list[PlainText] = []
    for source in listed:
        there = list(read_texts(source))
        kept = [one for one in there if one.text.strip()]
        if not kept:
            raise DataError(f"{source}: all {len(there)} texts are blank; give texts to learn from")
        if len(kept) < len(there):
            say(f"{source}: passed over {len(there) - len(kept)} blank texts")
        found += kept
    return found


def check_filled(source: str | Path) -> None:
    """Refuse, with a ``DataError``, a source of plain texts that cannot be read or holds none but blank ones; the first one is read."""
    if not any(one.text.strip() for one in read_texts(source)):
        raise DataError(f"{source} holds no text that is not blank; give texts to learn from")


def read_texts(source: str | Path) -> Iterator[PlainText]:
    """Yield the texts of one source, streaming.

    A ``.txt`` file holds one text a line; Markdown and reStructuredText one a paragraph (what stands between blank lines);
    JSON lines, CSV, TSV, Parquet and Arrow one a row, in the column ``text`` after its ``title``, or, where the columns are
    those of triplets, one a side. A folder is one of such tables, held-out ones left out (``choose_files``), or, where there are
    none, of documents at any depth. Anything else is the id of a hub data set.

    Raises:
        DataError: Nothing is there, or it cannot be read; with file and line.
    """
    path = Path(source).expanduser()
    documents = _documents_below(path) if path.is_dir() else [path] if _suffix(path) in _DOCUMENTS and path.is_file() else []
    if documents:
        for file in documents:
            yield from _of_document(file)
    elif path.is_file() and _suffix(path) not in FORMATS:
        raise DataError(
            f"{path}: unknown kind of file; expected {', '.join((*_DOCUMENTS, *FORMATS))}, perhaps .gz, or a folder"
        )
    elif path.is_file() and "text" in next(iter(read_rows(path))).values:
        yield from (PlainText(one.id, one.text) for one in read_documents(path))
    else:
        for _, dataset, rows in read_tables(source):
            for row in rows:
                yield from (PlainText("", text) for text in _of_row(row, dataset))


def _suffix(path: Path) -> str:
    return suffix_of(path).lower()


def _of_row(row: SourceRow, dataset: str) -> Iterator[str]:
    if "text" in row.values:
        yield full_text(row)[0]
    else:
        for triplet in triplets_of(row, dataset=dataset, require_negative=False):
            yield from triplet.texts


def _documents_below(folder: Path) -> list[Path]:
    """Return the documents of a folder that holds no table of texts; none of one that does."""
    visible = visible_files(folder)
    documents = [path for path in visible if _suffix(path) in _DOCUMENTS]
    if not any(_suffix(path) in FORMATS for path in visible):
        return documents
    left = [path.name for path in documents if path.stem.lower() != "readme"]
    if left:
        say(f"{folder}: its tables are read, its documents ({len(left)}, such as {left[0]}) are not; name both")
    return []


def _of_document(path: Path) -> Iterator[PlainText]:
    lines = (line.rstrip("\r\n") for _, line in read_lines(path))
    if _suffix(path) == _LINES:
        yield from (PlainText(str(number), line) for number, line in enumerate(lines))
    else:
        for filled, paragraph in groupby(lines, key=lambda line: bool(line.strip())):
            if filled:
                yield PlainText("", "\n".join(paragraph))
