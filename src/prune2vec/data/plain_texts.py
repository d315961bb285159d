"""Texts alone, from any source that a verb reads: documents, rows of triplets (each side a text), prose, folders of these."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prune2vec.data.documents import full_text, read_documents
from prune2vec.data.folders import choose_files
from prune2vec.data.reader import holds_triplets, read_triplets, triplets_of
from prune2vec.data.rows import FORMATS, SourceRow, read_lines, read_rows, suffix_of
from prune2vec.errors import DataError

_PROSE = (".md", ".rst")


def read_texts(source: str | Path, *, text_column: str = "text") -> Iterator[str]:
    """Yield every text of a source that holds more than blanks, streaming.

    The source is a .txt file (one text a line), a Markdown or RST file (one text), a file of rows (documents, or triplets, each
    side of which is a text), a folder of these, or the id of a hub data set of triplets. Of a folder of rows the files are those
    that ``choose_files`` takes.

    Args:
        source: Path or hub id.
        text_column: Column with the text of a document.

    Raises:
        DataError: Nothing is there, it cannot be read or holds no text; the message has file and line.
    """
    path = Path(source).expanduser()
    texts: Iterator[str]
    if not path.exists():
        texts = (text for triplet in read_triplets(source, require_negative=False) for text in triplet.texts)
    elif path.is_dir():
        prose = sorted(file for file in path.rglob("*") if suffix_of(file) in (*_PROSE, ".txt") and _is_open(file, path))
        files = prose or [file.path for file in choose_files(path)]
        texts = (text for file in files for text in _of_file(file, text_column))
    else:
        texts = _of_file(path, text_column)
    found = False
    for text in texts:
        if text.strip():
            found = True
            yield text
    if not found:
        raise DataError(f"{source} holds no texts")


def _is_open(file: Path, folder: Path) -> bool:
    return file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _of_file(path: Path, text_column: str) -> Iterator[str]:
    if suffix_of(path) in _PROSE:
        yield "".join(line for _, line in read_lines(path))
    elif suffix_of(path) not in FORMATS:
        yield from (document.text for document in read_documents(path))
    else:
        for row in read_rows(path):
            yield from _of_row(row, text_column)


def _of_row(row: SourceRow, text_column: str) -> Iterator[str]:
    if holds_triplets(row):
        triplets = triplets_of(row, dataset="", require_negative=False)
        yield from dict.fromkeys(text for triplet in triplets for text in triplet.texts)
    else:
        yield full_text(row, text_column)[0]
