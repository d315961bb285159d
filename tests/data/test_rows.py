"""The formats of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.data.rows import known_suffixes, read_rows
from prune2vec.errors import DataError


def test_what_cannot_be_read_is_told_with_what_can(tmp_path: Path) -> None:
    assert known_suffixes() == ".arrow, .csv, .jsonl, .ndjson, .parquet or .tsv (text formats also with .gz)"
    for name in ("a.doc", "a", "a.parquet.gz"):
        with pytest.raises(DataError, match=r"unknown kind of file; expected \.arrow, \.csv"):
            read_rows(tmp_path / name)
