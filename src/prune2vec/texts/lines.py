"""Reading a text file line by line, plain or gzipped, with every failure as one line that names the place."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from prune2vec.errors import DataError

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
