"""A corpus as a stream of (id, text): JSON lines, Parquet, CSV or one text a line, packed or not; of any size."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prune2vec.data.documents import Document, read_documents
from prune2vec.data.formats.arrow import count_rows
from prune2vec.data.rows import suffix_of
from prune2vec.errors import DataError

_HEAD_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus file.

    Attributes:
        path: The file.
        text_column: Column with the text.
        id_column: Column with the id; None takes ``_id`` or ``id``, else the row's number.
    """

    path: Path
    text_column: str = "text"
    id_column: str | None = None

    def opened(self) -> IO[bytes]:
        """Open the file as it is, packed or not.

        Raises:
            DataError: It cannot be opened.
        """
        try:
            return self.path.open("rb")
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    def estimate(self) -> float:
        """Return about how many rows there are, from the size of the file and the lines at its head; exact for Parquet and Arrow.

        Raises:
            DataError: The file cannot be read.
        """
        if self.path.suffix in (".parquet", ".arrow"):
            return count_rows(self.path)
        with self.opened() as file:
            head = file.read(_HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
        lines = _unpacked(head, self.path).count(b"\n") if self.path.suffix == ".gz" else head.count(b"\n")
        return max(1, lines) * size / max(1, len(head))

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order; of all but a few rows only digests are kept.

        Raises:
            DataError: The file cannot be read or holds no row, a row lacks its text or id, or two rows have one id and other
                texts; with file and line.
        """
        return read_documents(self.path, text_column=self.text_column, id_column=self.id_column)

    def check_filled(self) -> None:
        """Refuse a corpus in which there is nothing to encode; as a rule one row is read.

        Raises:
            DataError: It holds no row or only blank texts, or cannot be read.
        """
        rows = 0
        for document in self.documents():
            if document.text.strip():
                return
            rows += 1
        column = "" if suffix_of(self.path) == ".txt" else f" in the column {self.text_column!r}"
        raise DataError(f"{self.path}: all {rows} texts{column} are blank; there is nothing to encode")


def _unpacked(head: bytes, path: Path) -> bytes:
    # Packed in parallel, or put together from several files, it has several members one after another.
    unpacked = []
    try:
        while head:
            member = zlib.decompressobj(wbits=_GZIP)
            unpacked.append(member.decompress(head))
            # Zeros may follow, as after a tape's last block.
            head = member.unused_data.lstrip(b"\0")
        return b"".join(unpacked)
    except zlib.error as error:
        raise DataError(f"{path}: broken gzip file ({error}); fetch it or pack it again") from error
