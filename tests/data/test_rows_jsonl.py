"""JSON lines."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from prune2vec.data.rows import read_jsonl
from prune2vec.errors import DataError


def test_rows_have_their_line_as_place_and_number(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n\n{"x": 2}\n', encoding="utf-8")
    assert [(row.where, row.number, row.values) for row in read_jsonl(path)] == [
        (f"{path}:1", 0, {"x": 1}),
        (f"{path}:3", 2, {"x": 2}),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"x": 1', "not JSON: Expecting ',' delimiter at character 8"),
        ("hello", "not JSON: Expecting value at character 1"),
        ('["a"]', "expected a JSON object .* got a list"),
        ('"a"', "got a string"),
        ("null", "got null"),
        ("true", "got a truth value"),
        ("3", "got a number"),
        ("[" * 200_000, "not readable JSON"),
        ('{"x": ' + "9" * 5000 + "}", "not readable JSON"),
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"a\.jsonl:2: .*{message}"):
        list(read_jsonl(path))


def test_reading_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"x": 1}\nbroken\n', encoding="utf-8")
    assert [row.values for row in islice(read_jsonl(path), 1)] == [{"x": 1}]
