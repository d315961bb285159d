"""How many rows a file has, told from its head: exact for small files and Parquet, near for large ones."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from prune2vec.encoding.corpus import Corpus
from prune2vec.errors import DataError


def lines(rows: int) -> bytes:
    draw = random.Random(0)
    return b"".join(b" ".join([b"word%d" % draw.randrange(9999)] * draw.randint(1, 9)) + b"\n" for _ in range(rows))


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_small_files_are_counted(tmp_path: Path, rows: int) -> None:
    (tmp_path / "a.txt").write_bytes(lines(rows))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(lines(rows)))
    # Members one after another, as from a parallel packer, and padding.
    members = [gzip.compress(line) for line in lines(rows).splitlines(keepends=True)]
    (tmp_path / "b.txt.gz").write_bytes(b"".join(members) + b"\0" * 9)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"] * rows}), tmp_path / "a.parquet")
    for path in tmp_path.iterdir():
        assert Corpus(path=path).estimate() == pytest.approx(rows), path


def test_large_files_are_estimated(tmp_path: Path) -> None:
    content = lines(300_000)
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content, 1))
    for path in tmp_path.iterdir():
        assert path.stat().st_size > 1 << 20
        assert Corpus(path=path).estimate() == pytest.approx(300_000, rel=0.05), path


def test_damage_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(b"not packed")
    (tmp_path / "a.parquet").write_bytes(b"not Parquet")
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=path.name):
            Corpus(path=path).estimate()
    with pytest.raises(DataError, match="cannot read"):
        Corpus(path=tmp_path / "none.txt").estimate()
