"""A row of named values with its place, the same for every file format, and the catalogue of formats."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError
from prune2vec.registry import Registry

_NEVER_PACKED = (".parquet", ".arrow")


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a file.

    Attributes:
        where: The place for messages: ``train.jsonl:17``.
        number: Number of the row in its file, from 0.
        values: The columns by name.
    """

    where: str
    number: int
    values: Mapping[str, Any]


RowReader = Callable[[Path], Iterator[SourceRow]]

formats: Registry[RowReader] = Registry("text file format", package="prune2vec.data.formats")


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the format: ``.jsonl`` for ``a.jsonl.gz``."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def known_suffixes() -> str:
    """Return the suffixes of all formats, for messages."""
    names = formats.names()
    return f"{', '.join(names[:-1])} or {names[-1]} (text formats also with .gz)"


def read_rows(path: Path) -> Iterator[SourceRow]:
    """Return the rows of a file in any known format, read one after the other.

    Raises:
        DataError: The format is unknown; while rows are read: the file cannot be read or holds none, or a row is broken.
    """
    suffix = suffix_of(path)
    if suffix not in formats.names() or (suffix in _NEVER_PACKED and path.suffix == ".gz"):
        raise DataError(f"{path}: unknown kind of file; expected {known_suffixes()}")
    return formats.get(suffix)(path)


def no_rows(path: Path, columns: Iterable[str] = ()) -> DataError:
    """Return what to say of a file without a row: it is rarely what was meant."""
    named = ", ".join(columns)
    return DataError(f"{path}: no rows{f', only the columns {named}' if named else ''}; give a file that holds some")


_BOM = "\ufeff"


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(number from 1, line with its end)`` of a UTF-8 file; a byte order mark is dropped.

    Raises:
        DataError: The file cannot be opened, is not UTF-8, holds NUL bytes, or its gzip data are damaged; with the line.
    """
    number = 0
    with explained_read_errors(path, lambda: f":{number + 1}"), _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise DataError(
                    f"{path}:{number}: holds a NUL byte, so it is no UTF-8 text (UTF-16, or not text at all?); save it as UTF-8"
                )
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start})"
                raise DataError(f"{place}; save the file as UTF-8") from error
            yield number, line.removeprefix(_BOM) if number == 1 else line


@contextmanager
def explained_read_errors(path: Path, place: Callable[[], str] = str) -> Iterator[None]:
    """Turn what goes wrong while reading ``path`` into one line.

    Args:
        path: The file.
        place: What to put after the path of a damaged file, asked when it fails: ``:17``.

    Raises:
        DataError: In place of any operating system or decompression error.
    """
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}{place()}: broken gzip file ({error}); fetch it or pack it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    # Binary, so that a wrong byte can be traced to its line.
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
