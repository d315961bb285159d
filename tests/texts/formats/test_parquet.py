"""Parquet."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from prune2vec.errors import DataError
from prune2vec.texts.formats.parquet import read_parquet


def test_rows_over_several_batches_are_numbered_on(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"query": [str(i) for i in range(2500)], "neg": [["x", "y"]] * 2500}), path)
    rows = list(read_parquet(path))
    assert [row.values["query"] for row in rows] == [str(i) for i in range(2500)]
    assert (rows[2000].where, rows[2000].number, rows[2000].values["neg"]) == (f"{path}: row 2001", 2000, ["x", "y"])


def test_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not one")
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file") as caught:
        list(read_parquet(path))
    assert "\n" not in str(caught.value)
