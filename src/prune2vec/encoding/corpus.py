"""A corpus as a stream of (id, text): JSON lines, Parquet, CSV or one text a line, packed or not; of any size."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prune2vec.errors import DataError, did_you_mean, reason_of
from prune2vec.texts.formats import Row, formats
from prune2vec.texts.lines import read_lines

_ID_COLUMNS = ("_id", "id")
_HEAD_BYTES = 1 << 20
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True, slots=True)
class Document:
    """One text to encode.

    Attributes:
        id: Its id in the corpus, or the number of its row.
        text: Title (where there is one), blank, text; it may be empty.
    """

    id: str
    text: str


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
        """Return about how many rows there are, from the size of the file and the lines at its head; exact for Parquet.

        Raises:
            DataError: The file cannot be read.
        """
        if self.path.suffix == ".parquet":
            return _parquet_rows(self.path)
        with self.opened() as file:
            head = file.read(_HEAD_BYTES)
            size = os.fstat(file.fileno()).st_size
        lines = _unpacked(head, self.path).count(b"\n") if self.path.suffix == ".gz" else head.count(b"\n")
        return max(1, lines) * size / max(1, len(head))

    @property
    def _suffix(self) -> str:
        return Path(self.path.name.removesuffix(".gz")).suffix

    def documents(self) -> Iterator[Document]:
        """Yield the documents in file order; only a few rows are in memory.

        Raises:
            DataError: The file cannot be read, or a row lacks its text or id; with file and line.
        """
        suffix = self._suffix
        if suffix == ".txt":
            for number, line in read_lines(self.path):
                yield Document(str(number - 1), line.rstrip("\r\n"))
            return
        if suffix not in formats.names():
            raise DataError(
                f"{self.path}: cannot read {suffix or 'a file without an ending'}; expected .txt, {', '.join(formats.names())}"
            )
        for row in formats.get(suffix)(self.path):
            yield self._document(row)

    def _document(self, row: Row) -> Document:
        text = self._text(row, self.text_column)
        title = row.values.get("title")
        if isinstance(title, str) and title and self.text_column == "text":
            text = f"{_sound(title, 'title', row)} {text}"
        return Document(self._id(row), text)

    def _text(self, row: Row, column: str) -> str:
        value = row.values.get(column)
        if isinstance(value, str):
            return _sound(value, column, row)
        if column not in row.values:
            hint = did_you_mean(column, list(map(str, row.values)))
            raise DataError(f"{row.where}: no column {column!r}{hint}; give --text-column")
        raise DataError(f"{row.where}: {column} is {type(value).__name__}, expected a string")

    def _id(self, row: Row) -> str:
        names = (self.id_column,) if self.id_column is not None else _ID_COLUMNS
        name = next((name for name in names if name in row.values), None)
        if name is None:
            if self.id_column is not None:
                raise DataError(f"{row.where}: no column {self.id_column!r}; give --id-column")
            return str(row.number)
        value = row.values[name]
        if not isinstance(value, str | int) or isinstance(value, bool):
            raise DataError(f"{row.where}: {name} is {type(value).__name__}, expected a string or a number")
        return _sound(str(value), name, row)


def _sound(text: str, column: str, row: Row) -> str:
    """Return the text, which UTF-8 can hold; JSON can spell one half of a surrogate pair, and a tokeniser takes none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{row.where}: {column} has half a surrogate pair at character {error.start + 1}; mend the row"
        ) from error
    return text


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


def _parquet_rows(path: Path) -> int:
    import pyarrow
    import pyarrow.parquet

    try:
        return int(pyarrow.parquet.ParquetFile(path).metadata.num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: not a readable Parquet file: {reason_of(error)}") from error
