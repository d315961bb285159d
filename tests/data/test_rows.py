"""The catalogue of formats."""

from __future__ import annotations

from prune2vec.data.rows import formats


def test_all_formats_are_found() -> None:
    assert formats.names() == (".arrow", ".csv", ".jsonl", ".ndjson", ".parquet", ".tsv")
