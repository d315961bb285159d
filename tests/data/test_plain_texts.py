"""Texts alone, from every form of source."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from prune2vec.data.plain_texts import read_texts
from prune2vec.errors import DataError

ROWS = [
    {"query": "a", "positive": ["b", "c"], "negative": ["d", "a"]},
    {"anchor": "e", "positive": "f"},
    {"_id": "1", "title": "g", "text": "h"},
    {"_id": "2", "text": "  "},
]
TEXTS = ["a", "b", "d", "c", "e", "f", "g h"]


def write_rows(path: Path) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_every_side_of_a_triplet_and_every_document(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / name)
    assert list(read_texts(path)) == TEXTS
    assert list(read_texts(tmp_path)) == TEXTS


def test_lines_prose_and_folders_of_prose(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "b.md").write_text("# Title\n\nBody\n")
    (tmp_path / ".hidden.md").write_text("no")
    assert list(read_texts(tmp_path / "a.txt")) == ["one", "two"]
    assert list(read_texts(tmp_path)) == ["one", "two", "# Title\n\nBody\n"]


def test_another_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,body\n1,one\n2,two\n")
    assert list(read_texts(tmp_path / "a.csv", text_column="body")) == ["one", "two"]


def test_what_is_not_there_and_what_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="holds no texts"):
        list(read_texts(tmp_path / "blank.txt"))
    with pytest.raises(DataError, match="no such file or folder"):
        list(read_texts(tmp_path / "missing.jsonl"))
    (tmp_path / "a.bin").write_text("x")
    with pytest.raises(DataError, match="unknown kind of file"):
        list(read_texts(tmp_path / "a.bin"))
