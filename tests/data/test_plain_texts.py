"""Plain texts from every kind of source, each with the ids that its vectors are known by."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from prune2vec.data.plain_texts import PlainText, check_filled, load_texts, read_texts
from prune2vec.errors import DataError


def found(source: Path) -> list[str]:
    return [one.text for one in read_texts(source)]


def test_lines_of_a_text_file_with_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n")
    assert list(read_texts(tmp_path / "a.txt")) == [PlainText("0", "one"), PlainText("1", ""), PlainText("2", " two ")]


def test_paragraphs_of_markdown(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A title\n\nFirst line,\nsecond line.\n   \n\nLast.")
    assert found(tmp_path / "a.md") == ["# A title", "First line,\nsecond line.", "Last."]


def test_rows_with_text_title_and_id(tmp_path: Path) -> None:
    rows = [{"_id": "x", "title": "T", "text": "one"}, {"_id": "y", "title": "", "text": "two"}]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    assert list(read_texts(tmp_path / "a.jsonl.gz")) == [PlainText("x", "T one"), PlainText("y", "two")]
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", "two"]}), tmp_path / "a.parquet")
    assert list(read_texts(tmp_path / "a.parquet")) == [PlainText("0", "one"), PlainText("1", "two")]
    (tmp_path / "a.csv").write_text("text,other\none,1\n")
    assert found(tmp_path / "a.csv") == ["one"]


def test_each_side_of_triplets(tmp_path: Path) -> None:
    row = {"query": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    assert found(tmp_path / "a.jsonl") == ["q", "p", "n", "m"]


def test_a_folder_of_documents_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b/two.md", "a.txt", ".hidden/x.md", "node_modules/x.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert found(tmp_path) == ["a.txt", "b/two.md"]


def test_a_folder_of_tables_without_those_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    (tmp_path / "README.md").write_text("what is in here")
    assert found(tmp_path) == ["train.jsonl"]
    said = capsys.readouterr().err
    assert "left out test.jsonl" in said and "documents" not in said
    (tmp_path / "notes.md").write_text("not read either")
    assert found(tmp_path) == ["train.jsonl"]
    assert "its documents (1, such as notes.md) are not; name both" in capsys.readouterr().err


def test_several_sources_without_blank_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("one\n\none\n")
    (tmp_path / "b.md").write_text("two")
    assert [one.text for one in load_texts([tmp_path / "a.txt", str(tmp_path / "b.md")])] == ["one", "one", "two"]
    assert "passed over 1 blank texts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "\n \n", "all 2 texts are blank"),
        ("a.pdf", "x", r"a\.pdf: unknown kind of file; expected \.txt, \.md"),
        ("a.jsonl", '{"body": "x"}\n', r"a\.jsonl:1: column anchor \(or query\) is missing; found body"),
        ("a.jsonl", '{"text": 1}\n', r"a\.jsonl:1: text is int, expected a string"),
        ("a.jsonl", "", r"a\.jsonl: no rows"),
    ],
)
def test_what_holds_no_texts_is_one_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_texts(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="holds no text that is not blank" if "blank" in message else message):
        check_filled(tmp_path / name)


def test_no_source_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected files, folders or hub data sets"):
        load_texts([])
    with pytest.raises(DataError, match="no such file or folder"):
        load_texts(tmp_path / "none.jsonl")
