"""Reading files and folders of triplets."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from prune2vec.data.folders import dataset_name
from prune2vec.data.reader import load_triplets, read_triplets
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError

ROWS = [{"query": f"q{n}", "positive": f"p{n}", "negative": f"n{n}"} for n in range(3)]


def _jsonl(path: Path, rows: list[dict[str, object]] | list[dict[str, str]] = ROWS) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _expected(dataset: str) -> list[Triplet]:
    return [Triplet(anchor=f"q{n}", positive=f"p{n}", negatives=(f"n{n}",), dataset=dataset, line=n) for n in range(3)]


@pytest.mark.parametrize("name", ["squad.jsonl", "squad.jsonl.gz", "squad.csv", "squad.tsv.gz", "squad.parquet"])
def test_every_format_gives_the_same_triplets(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if ".jsonl" in name:
        _jsonl(path)
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    else:
        mark = "," if ".csv" in name else "\t"
        text = "".join(mark.join(row) + "\n" for row in [list(ROWS[0]), *(list(row.values()) for row in ROWS)])
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    assert load_triplets(path) == _expected("squad")
    assert load_triplets(str(path)) == _expected("squad")


def test_dataset_names_lose_suffixes_and_roles() -> None:
    names = ["a/squad.jsonl.gz", "squad.dev.jsonl", "squad.train.csv", "dev.jsonl", "v1.5.parquet"]
    assert [dataset_name(Path(name)) for name in names] == ["squad", "squad", "squad", "dev", "v1.5"]


def test_folder_reads_files_by_name_and_leaves_held_out_ones(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl.gz", "a.dev.jsonl", "test.jsonl", "corpus.jsonl.gz", ".hidden.jsonl"):
        _jsonl(tmp_path / name)
    (tmp_path / "README.md").write_text("no texts", encoding="utf-8")
    assert load_triplets(tmp_path) == _expected("a") + _expected("b")


def test_folder_of_held_out_files_only_is_for_evaluation(tmp_path: Path) -> None:
    file = _jsonl(tmp_path / "a.dev.jsonl")
    with pytest.raises(DataError, match=r"only held-out files \(a\.dev\.jsonl\), which are not trained on; name the file"):
        load_triplets(tmp_path)
    assert load_triplets(file) == load_triplets(tmp_path, split="validation") == _expected("a")


def test_shards_are_one_data_set_whose_rows_are_numbered_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        _jsonl(tmp_path / f"squad-train-0000{number}-of-00002.jsonl.gz")
    _jsonl(tmp_path / "squad-test-00000-of-00001.jsonl.gz")
    found = load_triplets(tmp_path)
    assert [row.dataset for row in found] == ["squad"] * 6
    assert [row.line for row in found] == list(range(6))
    assert capsys.readouterr().err == (
        f"{tmp_path}: held-out files are not trained on; left out squad-test-00000-of-00001.jsonl.gz\n"
    )


def test_what_save_to_disk_writes(tmp_path: Path) -> None:
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "squad", num_shards=2)
    # A map leaves its cache beside the data.
    (tmp_path / "squad" / "cache-0123.arrow").write_bytes(b"not read")
    assert load_triplets(tmp_path / "squad") == _expected("squad")
    datasets.DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(tmp_path / "nq")
    assert load_triplets(tmp_path / "nq") == _expected("nq")
    assert load_triplets(tmp_path / "nq", split="test") == _expected("nq")[:1]
    (tmp_path / "squad" / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"state\.json: _data_files is no list of names"):
        load_triplets(tmp_path / "squad")


def test_several_sources_are_joined_in_order(tmp_path: Path) -> None:
    first, second = _jsonl(tmp_path / "x.jsonl"), _jsonl(tmp_path / "a.jsonl")
    assert load_triplets([first, str(second)]) == _expected("x") + _expected("a")


def test_reading_is_streamed(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl")
    with path.open("a", encoding="utf-8") as file:
        file.write("broken\n")
    assert list(islice(read_triplets(path), 3)) == _expected("a")
    with pytest.raises(DataError, match=r"a\.jsonl:4: not JSON"):
        list(read_triplets(path))


def test_rows_with_an_empty_text_are_passed_over_counted_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [ROWS[0], ROWS[1] | {"positive": " "}, ROWS[2]])
    assert [row.line for row in read_triplets(path)] == [0, 2]
    assert f"passed over 1 rows with an empty text, the first at {path}:2" in capsys.readouterr().err


def test_negatives_are_required_unless_told_otherwise(tmp_path: Path) -> None:
    path = _jsonl(tmp_path / "a.jsonl", [{"query": "q", "positive": "p"}])
    with pytest.raises(DataError, match=r"a\.jsonl:1: column negative is missing"):
        load_triplets(path)
    assert load_triplets(path, require_negative=False)[0].negatives == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "no rows"),
        ("a.parquet", b"", "not a readable Parquet file"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0), "no rows"),
        ("a.jsonl", b"\n \n", "no rows"),
        ("a.csv", b"query,positive,negative\n", "no rows"),
        ("a.jsonl", b'{"query": "", "positive": "p", "negative": "n"}\n', "all 1 rows have an empty text"),
        ("a.xlsx", b"x", r"unknown kind of file; expected \.arrow, \.csv, \.jsonl"),
        ("a.parquet.gz", gzip.compress(b"x", mtime=0), "unknown kind of file"),
        ("a", b"x", "unknown kind of file"),
    ],
)
def test_files_that_hold_nothing_usable(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        load_triplets(path)


def test_missing_path_gets_the_close_match(tmp_path: Path) -> None:
    _jsonl(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file or folder; did you mean '.*train\.jsonl'\?"):
        load_triplets(tmp_path / "trian.jsonl")


def test_mistyped_relative_folder_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "triplets").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data/triplet: no such file or folder; did you mean 'data/triplets'\?"):
        load_triplets("data/triplet")


def test_folder_without_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file of texts in this folder"):
        load_triplets(tmp_path)
    _jsonl(tmp_path / "corpus.jsonl")
    with pytest.raises(DataError, match="queries and documents, not of triplets"):
        load_triplets(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"negatives": "no"}, "negatives is a str, expected a tuple of texts"),
        ({"anchor": None}, "anchor is null, expected a string"),
        ({"positive": 3}, "positive is int, expected a string"),
        ({"negatives": ("a", "b\ud800")}, r"a negative holds half a character \(\\ud800 at 1\)"),
    ],
)
def test_triplets_in_memory_are_checked_as_those_of_files(wrong: dict[str, Any], said: str) -> None:
    good = Triplet(anchor="q", positive="p", negatives=("n",))
    assert load_triplets([good]) == [good]
    with pytest.raises(DataError, match=f"^triplet 1: {said}"):
        load_triplets([good, replace(good, **wrong)])


def test_no_source_at_all() -> None:
    with pytest.raises(DataError, match="no source of texts"):
        load_triplets([])


@pytest.mark.parametrize("texts", [None, 5])
def test_what_is_no_text_is_one_line(texts: object) -> None:
    with pytest.raises(DataError, match=f"expected triplets, or files, folders and hub data sets, got {texts}"):
        load_triplets(texts)  # type: ignore[arg-type]
