"""BEIR folders and triplets as retrieval tasks."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from prune2vec.data.beir import Retrieval, is_beir, read_beir, triplets_as_retrieval
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError

EXPECTED = Retrieval(
    queries={"q1": "one?", "3": "three?"},
    corpus={"d1": "Title text", "d2": "bare", "d3": ""},
    qrels={"q1": {"d1": 1, "d2": 0}, "3": {"d2": 2}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    corpus = (
        '{"_id": "d1", "title": "Title", "text": "text"}\n'
        '{"_id": "d2", "title": "", "text": "bare"}\n{"_id": "d3", "text": ""}\n'
    )
    (tmp_path / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    queries = '{"_id": "q1", "text": "one?"}\n{"_id": "q2", "text": "two?"}\n{"_id": 3, "text": "three?"}\n'
    (tmp_path / "queries.jsonl").write_text(queries, encoding="utf-8")
    return tmp_path


def _tsv(folder: Path, rows: str = "q1\td1\t1\nq1\td2\t0\n3\td2\t2\n", split: str = "test") -> None:
    (folder / "qrels").mkdir(exist_ok=True)
    (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows, encoding="utf-8")


def test_tsv_judgements(folder: Path) -> None:
    _tsv(folder)
    assert is_beir(folder)
    assert read_beir(folder) == EXPECTED
    assert list(read_beir(folder).queries) == ["q1", "3"]


def test_json_judgements(folder: Path) -> None:
    rows = (("q1", "d1", 1), ("q1", "d2", 0), ("3", "d2", 2.0))
    text = "".join(f'{{"query-id": "{q}", "corpus-id": "{d}", "score": {s}}}\n' for q, d, s in rows)
    (folder / "qrels.jsonl").write_text(text, encoding="utf-8")
    assert read_beir(folder) == EXPECTED
    with pytest.raises(DataError, match="there is no split 'dev'; leave the split out"):
        read_beir(folder, "dev")


def test_splits_are_kept_apart(folder: Path) -> None:
    _tsv(folder)
    _tsv(folder, "q2\td1\t1\n", split="dev")
    assert read_beir(folder, "dev").qrels == {"q2": {"d1": 1}}
    with pytest.raises(DataError, match="no qrels for split 'tets'; did you mean 'test'"):
        read_beir(folder, "tets")


def test_judged_documents_outside_the_corpus_stay_and_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _tsv(folder, "q1\tgone\t1\n")
    assert read_beir(folder).qrels == {"q1": {"gone": 1}}
    assert "1 judged documents are not in the corpus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("q9\td1\t1\n", r"test\.tsv:2: query 'q9' is not in the queries file"),
        ("q1\td1\thigh\n", r"test\.tsv:2: score is 'high', expected a whole number up to 1,000,000"),
        ("q1\td1\t0.5\n", r"test\.tsv:2: score is '0\.5', expected a whole number up to 1,000,000"),
        ("q1\td1\t3000000000\n", r"test\.tsv:2: score is '3000000000', expected a whole number up to 1,000,000"),
        ("q1\td1\tinf\n", r"test\.tsv:2: score is 'inf', expected a whole number up to 1,000,000"),
        ("q1\td1\t1\nq1\td1\t2\n", r"test\.tsv:3: query 'q1' and document 'd1' have another score in an earlier row"),
        ("", r"test\.tsv: no rows"),
    ],
)
def test_bad_judgements_are_named(folder: Path, rows: str, message: str) -> None:
    _tsv(folder, rows)
    with pytest.raises(DataError, match=message):
        read_beir(folder)


def test_missing_files_and_fields_are_named(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no qrels\.jsonl or qrels\.jsonl\.gz in this folder"):
        read_beir(folder)
    (folder / "queries.jsonl").write_text('{"id": "q1", "text": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"queries\.jsonl:1: no column '_id'; did you mean 'id'\?"):
        read_beir(folder)
    (folder / "queries.jsonl").unlink()
    assert not is_beir(folder)
    with pytest.raises(DataError, match=r"no queries\.jsonl"):
        read_beir(folder)


def test_triplets_share_documents_and_queries() -> None:
    rows = [
        Triplet(anchor="a", positive="p", negatives=("n", "r")),
        Triplet(anchor="b", positive="n", negatives=("p",)),
        Triplet(anchor="a", positive="r"),
    ]
    assert triplets_as_retrieval(rows) == Retrieval(
        queries={"q0": "a", "q1": "b"},
        corpus={"d0": "p", "d1": "n", "d2": "r"},
        qrels={"q0": {"d0": 1, "d2": 1}, "q1": {"d1": 1}},
    )


@pytest.mark.parametrize("header", ["query_id\tcorpus_id\tscore", "qid\tdocid\trelevance", "Query ID\tDoc ID\tlabel"])
def test_headers_and_scores_as_others_write_them(folder: Path, header: str) -> None:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(f"{header}\nq1\td1\t1.0\nq1\td2\t0\n3\td2\t2.0\n", encoding="utf-8")
    assert read_beir(folder) == EXPECTED


def test_judgements_without_names_are_told(folder: Path) -> None:
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("q1\td1\t1\n3\td2\t2\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.tsv:2: no 'query-id'; found 1, d1, q1; expected query-id"):
        read_beir(folder)


def test_texts_that_differ_in_blanks_alone_are_one_document() -> None:
    rows = [Triplet(anchor="a", positive="p  x", negatives=("n",)), Triplet(anchor="a ", positive="q", negatives=(" p x\n",))]
    assert triplets_as_retrieval(rows) == Retrieval(
        queries={"q0": "a"}, corpus={"d0": "p  x", "d1": "n", "d2": "q"}, qrels={"q0": {"d0": 1, "d2": 1}}
    )


@pytest.mark.parametrize(
    "row",
    [
        {"query": "what is x", "query_id": "q1", "corpus_id": "d1", "score": 1},
        {"query_id": "q1", "doc": "the text", "corpus_id": "d1", "score": 1},
    ],
)
def test_a_column_of_ids_goes_before_one_of_texts(folder: Path, row: dict[str, object]) -> None:
    (folder / "qrels.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert read_beir(folder).qrels == {"q1": {"d1": 1}}


def test_judgements_in_parquet(folder: Path) -> None:
    (folder / "qrels").mkdir(exist_ok=True)
    table = pyarrow.table({"query-id": ["q1"], "corpus-id": ["d1"], "score": [1]})
    pyarrow.parquet.write_table(table, folder / "qrels" / "test.parquet")
    assert read_beir(folder).qrels == {"q1": {"d1": 1}}
