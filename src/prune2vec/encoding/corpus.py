"""A corpus as a stream of (id, text): JSON lines, Parquet, CSV or one text a line, packed or not; of any size."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from prune2vec.data.documents import Document, read_documents
from prune2vec.data.rows import count_rows, suffix_of
from prune2vec.errors import DataError

HEAD_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus file; its columns are those of ``read_documents``. Every method raises DataError if it cannot be read."""

    path: Path
    text_column: str = "text"
    id_column: str | None = None

    def head(self) -> tuple[bytes, int]:
        """Return the first MiB of the file as it is, packed or not, and the size of all in bytes."""
        try:
            with self.path.open("rb") as file:
                return file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    def estimate(self) -> float:
        """Return about how many rows there are, by the lines at the head of the file; exact for Parquet and Arrow."""
        if self.path.suffix in (".parquet", ".arrow"):
            return count_rows(self.path)
        head, size = self.head()
        unpacked = [head]
        if self.path.suffix == ".gz":
            # Packed in parallel, or put together from several files, it has several members one after another.
            unpacked, rest = [], head
            try:
                while rest:
                    member = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
                    unpacked.append(member.decompress(rest))
                    # Zeros may follow, as after a tape's last block.
                    rest = member.unused_data.lstrip(b"\0")
            except zlib.error as error:
                raise DataError(f"{self.path}: broken gzip file ({error}); fetch it or pack it again") from error
        lines = sum(part.count(b"\n") for part in unpacked)
        return max(1, lines) * size / max(1, len(head))

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
