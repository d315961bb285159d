"""Arrow's two kinds of file, read in small batches: Parquet, and the .arrow files of ``datasets.save_to_disk``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from prune2vec.data.rows import SourceRow, explained_read_errors, formats, no_rows
from prune2vec.errors import DataError, reason_of

_ROWS_AT_A_TIME = 1024
_MAGIC = b"ARROW1"

# The names of the columns, and the record batches.
_Opened = tuple[list[str], Iterable[Any]]


@formats.register(".parquet")
def read_parquet(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file; never more than a thousand are in memory.

    Raises:
        DataError: The file is not Parquet, is damaged or holds no row.
    """
    return _read(path, _parquet)


@formats.register(".arrow")
def read_arrow(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of an Arrow stream or file.

    Raises:
        DataError: The file is not Arrow, is damaged or holds no row.
    """
    return _read(path, _arrow)


def count_rows(path: Path) -> int:
    """Return how many rows a Parquet or Arrow file has, without reading them.

    Raises:
        DataError: It is no such file, or is damaged.
    """
    import pyarrow.parquet

    with _explained(path):
        if path.suffix == ".parquet":
            with pyarrow.parquet.ParquetFile(path) as file:
                return int(file.metadata.num_rows)
        with _arrow(path) as (_, batches):
            return sum(batch.num_rows for batch in batches)


@contextmanager
def _parquet(path: Path) -> Iterator[_Opened]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        yield file.schema_arrow.names, file.iter_batches(batch_size=_ROWS_AT_A_TIME)


@contextmanager
def _arrow(path: Path) -> Iterator[_Opened]:
    import pyarrow.ipc

    with path.open("rb") as raw:
        is_file = raw.read(len(_MAGIC)) == _MAGIC
    with pyarrow.memory_map(str(path)) as source:
        if is_file:
            file = pyarrow.ipc.open_file(source)
            yield file.schema.names, map(file.get_batch, range(file.num_record_batches))
        else:
            stream = pyarrow.ipc.open_stream(source)
            yield stream.schema.names, stream


def _read(path: Path, opened: Callable[[Path], AbstractContextManager[_Opened]]) -> Iterator[SourceRow]:
    number = 0
    with _explained(path, lambda: f" after {number} rows"), opened(path) as (names, batches):
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                for values in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                    yield SourceRow(f"{path}: row {number + 1}", number, values)
                    number += 1
    if not number:
        raise no_rows(path, names)


@contextmanager
def _explained(path: Path, place: Callable[[], str] = str) -> Iterator[None]:
    """Turn what the library says of a file into one line."""
    import pyarrow

    with explained_read_errors(path):
        try:
            yield
        # Strings that are not UTF-8, and columns of one name, are ValueErrors of Python's own.
        except (pyarrow.ArrowException, ValueError, OverflowError) as error:
            kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
            raise DataError(f"{path}: not a readable {kind} file{place()}: {reason_of(error)}") from error
