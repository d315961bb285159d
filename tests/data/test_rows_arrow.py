"""Parquet and Arrow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from prune2vec.data.rows import count_rows, read_arrow
from prune2vec.errors import DataError


def test_rows_over_several_batches_are_numbered_on(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"query": [str(i) for i in range(2500)], "neg": [["x", "y"]] * 2500}), path)
    rows = list(read_arrow(path))
    assert [row.values["query"] for row in rows] == [str(i) for i in range(2500)]
    assert (rows[2000].where, rows[2000].number, rows[2000].values["neg"]) == (f"{path}: row 2001", 2000, ["x", "y"])


def test_damaged_file_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 this is not one")
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file") as caught:
        list(read_arrow(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("new", [pyarrow.ipc.new_stream, pyarrow.ipc.new_file])
def test_arrow_streams_and_files(tmp_path: Path, new: Callable[..., pyarrow.ipc.RecordBatchWriter]) -> None:
    path = tmp_path / "a.arrow"
    table = pyarrow.table({"text": [str(i) for i in range(2500)]})
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=1100)
    assert [row.values["text"] for row in read_arrow(path)] == [str(i) for i in range(2500)]
    assert count_rows(path) == 2500
    path.write_bytes(path.read_bytes()[:300])
    for read in (lambda: list(read_arrow(path)), lambda: count_rows(path)):
        with pytest.raises(DataError, match=r"a\.arrow: "):
            read()


def test_no_row_and_no_utf8_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": pyarrow.array([], pyarrow.string())}), path)
    with pytest.raises(DataError, match=r"a\.parquet: no rows, only the columns body"):
        list(read_arrow(path))
    wrong = pyarrow.StringArray.from_buffers(1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff"))
    pyarrow.parquet.write_table(pyarrow.table({"body": wrong}), path)
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file after 0 rows: .*utf-8"):
        list(read_arrow(path))


def test_a_damaged_page_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"text": [str(row) * 20 for row in range(3000)]})
    pyarrow.parquet.write_table(table, path, compression="snappy", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[40:400] = b"\xff" * 360
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: not a readable Parquet file after 0 rows") as caught:
        list(read_arrow(path))
    assert "\n" not in str(caught.value)
