"""A corpus as a stream of (id, text): JSON lines, Parquet, CSV or one text a line, packed or not; of any size."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.data.documents import Document, read_documents
from prune2vec.data.rows import count_rows, explained_read_errors, suffix_of
from prune2vec.errors import DataError

HEAD_BYTES = 1 << 20
# Unpacked; a packed file is read some 128 KB ahead.
_SAMPLE_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus file; its columns are those of ``read_documents``. Every method raises DataError if it cannot be read."""

    path: Path
    text_column: str = "text"
    id_column: str | None = None

    def head(self) -> tuple[bytes, int]:
        """Return the first MiB of the file as it is, packed or not, and the size of all in bytes."""
        with explained_read_errors(self.path), self.path.open("rb") as file:
            return file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size

    def estimate(self) -> float:
        """Return about how many rows there are, by the lines at the head of the file; exact for Parquet and Arrow."""
        if self.path.suffix in (".parquet", ".arrow"):
            return count_rows(self.path)
        with explained_read_errors(self.path), self.path.open("rb") as file:
            text: Any = gzip.GzipFile(fileobj=file) if self.path.suffix == ".gz" else file
            lines: int = text.read(_SAMPLE_BYTES).count(b"\n")
            return max(1, lines) * os.fstat(file.fileno()).st_size / max(1, file.tell())

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order, streaming, as ``read_documents`` does."""
        return read_documents(self.path, text_column=self.text_column, id_column=self.id_column)

    def check_filled(self) -> None:
        """Refuse a corpus without a row, or with only blank texts; as a rule one row is read."""
        rows = 0
        for document in self.documents():
            if document.text.strip():
                return
            rows += 1
        column = "" if suffix_of(self.path) == ".txt" else f" in the column {self.text_column!r}"
        raise DataError(f"{self.path}: all {rows} texts{column} are blank; there is nothing to encode")


def document_bytes(document: Document) -> bytes:
    """Return what a document adds to the digest of its part, ``source_sha256`` in the manifest."""
    # Lengths, so that no text can pass for the end of one and the beginning of the next.
    return f"{len(document.id)} {len(document.text)} {document.id}{document.text}".encode()
