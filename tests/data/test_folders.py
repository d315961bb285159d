"""Which files of a folder are read, under which name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prune2vec.data.folders import check_held_out, choose_files, dataset_name, visible_files
from prune2vec.errors import ConfigError, DataError


def _folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "nq"
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def _read(folder: Path, split: str = "train") -> dict[str, str]:
    return {str(file.path.relative_to(folder)): file.dataset for file in choose_files(folder, split)}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl.gz", ".csv", ".arrow"])
@pytest.mark.parametrize(
    "held_out",
    ["test", "validation", "dev", "val", "valid", "eval", "heldout", "held_out", "held-out", "Test", "evaluation", "holdout"],
)
@pytest.mark.parametrize("form", ["{}", "{}-00000-of-00001", "{}-00000-of-00001-0123456789abcdef", "a.{}", "a-{}-v2", "{}_1"])
def test_held_out_names_are_never_trained_on(tmp_path: Path, form: str, held_out: str, suffix: str) -> None:
    folder = _folder(tmp_path, f"train-00000-of-00001{suffix}", form.format(held_out) + suffix)
    assert list(_read(folder)) == [f"train-00000-of-00001{suffix}"]
    assert list(_read(folder, held_out)) == [form.format(held_out) + suffix]


@pytest.mark.parametrize("name", ["contest.jsonl", "devices.csv", "latest.parquet", "medieval.jsonl", "retest-a.jsonl"])
def test_words_that_hold_a_split_are_none(tmp_path: Path, name: str) -> None:
    assert list(_read(_folder(tmp_path, name))) == [name]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["train", "train"]),
        (["squad-train-00000-of-00002.csv", "squad-train-00001-of-00002.csv"], ["squad", "squad"]),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "README.md"], ["nq"]),
        (["en/train-00000-of-00001.parquet", "de/train-00000-of-00001.parquet", "de/test.parquet"], ["de", "en"]),
        (["default/train/0000.parquet", "default/train/0001.parquet", "default/test/0000.parquet"], ["nq", "nq"]),
        (["train/a.jsonl", "test/a.jsonl"], ["a"]),
        (["part-00000-ab.parquet", "part-00001-ab.parquet"], ["nq", "nq"]),
        (["b.jsonl", "a.train.jsonl", "a.dev.jsonl", "old/c.jsonl"], ["a", "b"]),
    ],
)
def test_data_sets_are_named_by_what_tells_them_apart(tmp_path: Path, files: list[str], expected: list[str]) -> None:
    assert list(_read(_folder(tmp_path, *files)).values()) == expected


def test_a_folder_of_the_hubs_cache_is_named_by_its_repository(tmp_path: Path) -> None:
    folder = tmp_path / "datasets--owner--nq" / "snapshots" / "0123abc"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train-00000-of-00001.parquet").touch()
    assert list(_read(folder).values()) == ["nq"]


def test_the_name_of_the_folder_itself_is_no_split(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "a.jsonl").touch()
    assert _read(tmp_path / "test") == {"a.jsonl": "a"}


def test_what_is_left_out_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _folder(tmp_path, "train.csv", *(f"test-0000{number}-of-00005.csv" for number in range(5)))
    choose_files(folder)
    assert capsys.readouterr().err == (
        f"{folder}: held-out files are not trained on; left out test-00000-of-00005.csv, test-00001-of-00005.csv, "
        "test-00002-of-00005.csv and 2 more\n"
    )


def test_evaluation_takes_another_held_out_split_or_all_where_there_is_none(tmp_path: Path) -> None:
    assert list(_read(_folder(tmp_path, "train.csv", "dev.csv"), "test")) == ["dev.csv"]
    assert list(_read(_folder(tmp_path / "x", "a.csv", "b.csv"), "test")) == ["a.csv", "b.csv"]


def test_retrieval_data_are_no_triplets(tmp_path: Path) -> None:
    names = [f"{name}-00000-of-00001.parquet" for name in ("corpus", "queries", "qrels")]
    with pytest.raises(DataError, match="queries and documents, not of triplets"):
        choose_files(_folder(tmp_path, *names))


def test_names_of_files_alone() -> None:
    names = ["squad-dev-v1.1.jsonl", "train-00000-of-00002.parquet", "0000.parquet", "training_set.csv", "2021.jsonl"]
    assert [dataset_name(Path(name)) for name in names] == ["squad-v1.1", "train", "0000", "training_set", "2021"]


def test_another_programs_state_is_none_of_save_to_disk(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "a.jsonl")
    (folder / "state.json").write_text('{"epoch": 3}', encoding="utf-8")
    assert [file.path.name for file in choose_files(folder)] == ["a.jsonl"]


def test_a_name_that_is_no_utf8_is_a_data_set_that_can_be_written() -> None:
    assert dataset_name(Path(os.fsdecode(b"caf\xe9.jsonl"))) == "caf\ufffd"


def test_what_is_held_out_is_not_trained_on(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "alpha.jsonl", "beta.jsonl", "dev.jsonl", "deep/test.jsonl")
    with pytest.raises(
        ConfigError, match=r"beta\.jsonl is held out, and .*nq is trained on, which has it too; take it out, or give"
    ):
        check_held_out(folder / "beta.jsonl", train=["some/dataset", folder])
    with pytest.raises(ConfigError, match=r"dev\.jsonl is held out, and .*dev\.jsonl is trained on"):
        check_held_out(folder / "dev.jsonl", train=[str(folder / "deep" / ".." / "dev.jsonl")])
    documents = _folder(tmp_path / "notes", "a.md", "deep/dev.txt")
    for held_out, texts in ((folder / "beta.jsonl", folder), (documents / "deep" / "dev.txt", documents)):
        with pytest.raises(ConfigError, match=rf"{held_out.name} is held out, and .*nq is learnt from, which has it too"):
            check_held_out(held_out, train=[], texts=["some/dataset", texts])
    only = _folder(tmp_path / "other", "alpha.jsonl")
    with pytest.raises(ConfigError, match=r"alpha\.jsonl is held out, and .*nq is trained on"):
        check_held_out(only, train=[only])
    # By their names they are left out, and a folder's held-out files are others than those to train on.
    for held_out in (folder / "dev.jsonl", folder, "some/dataset", folder / "gone.jsonl"):
        check_held_out(held_out, train=[folder], texts=[only, folder])
    beir = _folder(tmp_path / "third", "corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    check_held_out(beir, train=[folder])


def test_what_prune2vec_wrote_into_a_folder_is_not_read(tmp_path: Path) -> None:
    folder = _folder(
        tmp_path, "a.md", "runs/first/.prune2vec-files.json", "runs/first/report.md", "runs/first/x/README.md", "runs/b.md"
    )
    assert [path.relative_to(folder).as_posix() for path in visible_files(folder)] == ["a.md", "runs/b.md"]
    assert [path.name for path in visible_files(folder / "runs" / "first")] == ["report.md", "README.md"]
