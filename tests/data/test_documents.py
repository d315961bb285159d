"""One reader of documents for all verbs."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from prune2vec.data.beir import read_beir
from prune2vec.data.documents import Document, read_documents, same_text
from prune2vec.data.reader import triplets_of
from prune2vec.data.rows import SourceRow
from prune2vec.encoding.corpus import Corpus
from prune2vec.errors import DataError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.retrieval import load_retrieval
from prune2vec.experiments import answers

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _texts(path: Path, **columns: Any) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in read_documents(path, **columns)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"text": " a \n"}, " a \n"),
        ({"title": "T", "text": "a"}, "T a"),
        ({"title": "T ", "text": " a"}, "T   a"),
        ({"title": " ", "text": " a"}, " a"),
        ({"title": None, "text": "a"}, "a"),
        ({"title": "T", "text": " "}, "T"),
        ({"title": "", "text": ""}, ""),
    ],
)
def test_title_and_text(tmp_path: Path, row: dict[str, Any], expected: str) -> None:
    assert _texts(_jsonl(tmp_path / "c.jsonl", [row])) == [("0", expected)]


@given(st.lists(st.tuples(st.one_of(st.none(), TEXTS), TEXTS), min_size=1, max_size=5))
def test_all_verbs_read_the_same_texts(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str | None, str]]) -> None:
    folder = tmp_path_factory.mktemp("same")
    named = [{"_id": f"d{number}", "title": title, "text": text} for number, (title, text) in enumerate(rows)]
    corpus = _jsonl(folder / "corpus.jsonl", named)
    texts = [text for _, text in _texts(corpus)]
    assert [document.text for document in Corpus(path=corpus).documents()] == texts
    assert [document.text for document in answers.read_documents(str(corpus))] == texts
    _jsonl(folder / "queries.jsonl", [{"_id": "q", "text": "q"}])
    _jsonl(folder / "qrels.jsonl", [{"query-id": "q", "corpus-id": "d0", "score": 1}])
    assert list(read_beir(folder).corpus.values()) == texts
    row = SourceRow("r:1", 0, {"query": "q", "positive": [{"title": title, "text": text} for title, text in rows]})
    assert [one.positive for one in triplets_of(row, dataset="", require_negative=False)] == [t for t in texts if t.strip()]
    # A text that is there already is no distractor, whichever way it comes in.
    filled = [text for text in texts if text.strip()]
    if filled:
        data = _jsonl(folder / "data.jsonl", [{"query": "q", "positive": [f" {text}\n" for text in filled]}])
        corpus = _jsonl(folder / "more.jsonl", [one for one, text in zip(named, texts, strict=True) if text.strip()])
        found = load_retrieval(data, EvaluateSettings(corpus=corpus))
        assert {same_text(text) for text in found.corpus.values()} == {same_text(text) for text in filled}
        assert len(found.corpus) == len({same_text(text) for text in filled})


def test_lines_of_text_have_their_number(tmp_path: Path) -> None:
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"a \r\n\nb"))
    assert _texts(tmp_path / "c.txt.gz") == [("0", "a "), ("1", ""), ("2", "b")]


def test_ids(tmp_path: Path) -> None:
    rows = [{"id": 7, "text": "a"}, {"_id": "x", "id": "y", "text": "b"}, {"text": "c"}, {"id": 3.0, "text": "d"}]
    path = _jsonl(tmp_path / "c.jsonl", rows)
    assert [name for name, _ in _texts(path)] == ["7", "x", "2", "3"]
    assert next(read_documents(path)) == Document("7", "a", "a", has_id=True)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1", None], r"c\.jsonl:2: no id, and its number '1' is an earlier row's id; give each row an id"),
        ([None, None, "1"], r"c\.jsonl:3: id '1' is that of an earlier row without one, its number; give each row an id"),
        (["x", None, "1"], r"c\.jsonl:3: id '1' is that of an earlier row"),
    ],
)
def test_a_number_that_stands_for_an_id_is_no_other_rows_id(tmp_path: Path, ids: list[str | None], message: str) -> None:
    rows = [{"text": f"text {place}"} | ({} if name is None else {"_id": name}) for place, name in enumerate(ids)]
    with pytest.raises(DataError, match=message):
        list(read_documents(_jsonl(tmp_path / "c.jsonl", rows)))
    assert len(list(read_documents(_jsonl(tmp_path / "d.jsonl", [*rows[:1], {"_id": "9", "text": "x"}])))) == 2


def test_whole_numbers_that_a_decimal_cannot_hold_are_no_ids(tmp_path: Path) -> None:
    for number in (2**53, 2**53 + 2):
        parquet.write_table(pyarrow.table({"id": [7.0, float(number)], "text": ["a", "b"]}), tmp_path / "t.parquet")
        if number == 2**53:
            assert [one.id for one in read_documents(tmp_path / "t.parquet")] == ["7", "9007199254740992"]
    with pytest.raises(
        DataError, match=r"id is 9\.0072e\+15, and so large a decimal has lost digits; store ids as text or int64"
    ):
        list(read_documents(tmp_path / "t.parquet"))


def test_a_document_that_comes_twice_is_read_once_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"_id": "a", "text": "x"}, {"_id": "b", "text": "x"}, {"_id": "a", "text": "x"}, {"text": "x"}, {"text": "x"}]
    path = _jsonl(tmp_path / "c.jsonl", rows)
    assert _texts(path) == [("a", "x"), ("b", "x"), ("3", "x"), ("4", "x")]
    assert capsys.readouterr().err == f"{path}: left out 1 documents that come twice, with the same id and text\n"


def test_one_id_of_two_texts_is_refused_with_both_places(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "x"}, {"_id": "b", "text": "x"}, {"_id": "a", "text": "y"}])
    with pytest.raises(DataError, match=r"c\.jsonl:1 and .*c\.jsonl:3 have the same id 'a' and other texts"):
        list(read_documents(path))


def test_two_ids_of_one_hash_are_two_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # "a" and "b" get one hash, their texts do not.
    monkeypatch.setattr("prune2vec.data.documents.hash", lambda text: text if len(text) > 1 else 1, raising=False)
    path = _jsonl(tmp_path / "c.jsonl", [{"_id": "a", "text": "xx"}, {"_id": "b", "text": "yy"}])
    assert _texts(path) == [("a", "xx"), ("b", "yy")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"id,body\n", "c.csv: no rows, only the columns id, body"),
        ("c.jsonl", b"", "c.jsonl: no rows"),
        ("c.txt", b"", "c.txt: no rows"),
        ("c.csv", b"id,body\n1,a\n", "c.csv:2: no column 'text'; known: body, id"),
        ("c.jsonl", b'{"text": null}\n', "c.jsonl:1: text is null, expected a string"),
        ("c.jsonl", b'{"text": "a"}\n{"text": 3}\n', "c.jsonl:2: text is int, expected a string"),
        ("c.jsonl", b'{"text": "a", "title": 3}\n', "c.jsonl:1: title is int, expected a string"),
        ("c.jsonl", b'{"text": "a", "_id": null}\n', "c.jsonl:1: _id is null, expected a string or a whole number"),
        ("c.jsonl", b'{"text": "a", "_id": 1.5}\n', "c.jsonl:1: _id is float"),
        ("c.jsonl", b'{"text": "a\\ud800"}\n', "c.jsonl:1: text holds half a character (\\ud800 at 1)"),
        ("c.jsonl", b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n', "c.jsonl:2: not JSON"),
        ("c.jsonl", b"[" * 100_000 + b"\n", "c.jsonl:1: not readable JSON"),
        ("c.jsonl", b'{"text": "a", "_id": ' + b"9" * 5000 + b"}\n", "c.jsonl:1: not readable JSON: Exceeds the limit"),
        ("c.jsonl", '{"text": "a"}\n'.encode("utf-16-le"), "c.jsonl:1: holds a NUL byte"),
        ("c.xlsx", b"x", "c.xlsx: unknown kind of file; expected .txt, .arrow, .csv"),
    ],
)
def test_what_is_broken_is_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(read_documents(tmp_path / name))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@given(TEXTS)
def test_blanks_alone_make_no_other_text(text: str) -> None:
    assert same_text(f" {text}\r\n") == same_text(text)
    assert same_text(same_text(text)) == same_text(text)
