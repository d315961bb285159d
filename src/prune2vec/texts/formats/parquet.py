"""Parquet, read in small batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prune2vec.errors import DataError, reason_of
from prune2vec.texts.formats.row import Row, formats
from prune2vec.texts.lines import explained_read_errors

_ROWS_AT_A_TIME = 1024


@formats.register(".parquet")
def read_parquet(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file; never more than a thousand are in memory.

    Raises:
        DataError: The file is not Parquet or is damaged.
    """
    import pyarrow
    import pyarrow.parquet

    number = 0
    with explained_read_errors(path):
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME):
                    for values in batch.to_pylist():
                        yield Row(f"{path}: row {number + 1}", number, values)
                        number += 1
        except pyarrow.ArrowException as error:
            reason = reason_of(error)
            raise DataError(f"{path}: not a readable Parquet file after {number} rows: {reason}") from error
