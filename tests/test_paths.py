"""Paths on the command line: checked at once, with the close match."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import CheckpointError, DataError
from prune2vec.paths import check_is_encoder, check_target, looks_local, must_exist


def test_the_close_match_is_in_the_same_folder(tmp_path: Path) -> None:
    (tmp_path / "profile.json").touch()
    with pytest.raises(DataError, match=r"did you mean '.*profile\.json'\?"):
        must_exist(tmp_path / "profle.json")


def test_the_first_missing_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "encoders").mkdir()
    with pytest.raises(DataError, match=r"encodrs does not exist; did you mean '.*encoders'\?"):
        must_exist(tmp_path / "encodrs" / "small" / "plan.json")


def test_nothing_close_names_the_folder(tmp_path: Path) -> None:
    (tmp_path / "zzz").touch()
    with pytest.raises(DataError, match="looked in"):
        must_exist(tmp_path / "profile.json")


def test_a_file_is_no_encoder_and_no_typo(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").touch()
    with pytest.raises(
        CheckpointError, match=r"^no encoder at .*texts\.jsonl; expected a folder made by prune2vec prune or train$"
    ):
        check_is_encoder(tmp_path / "texts.jsonl")


@pytest.mark.parametrize("name", ["./model", "model/", "../model", "~/model", "a/b/c", "model.gguf", "/model", "rows.jsonl.gz"])
def test_only_a_path(name: str) -> None:
    assert looks_local(name)


@pytest.mark.parametrize("name", ["smollm2", "Qwen/Qwen3-0.6B", "gpt2", "docstrings", "sentence-transformers/all-nli"])
def test_maybe_a_hub_id(name: str) -> None:
    assert not looks_local(name)


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert check_target(tmp_path / "new" / "deep.json", folder=False) == tmp_path / "new" / "deep.json"
    assert check_target(tmp_path / "file", folder=False)
    assert check_target(tmp_path / "folder", folder=True)
    for path, folder in ((tmp_path / "file", True), (tmp_path / "folder", False), (tmp_path / "file" / "x", False)):
        with pytest.raises(CheckpointError, match="cannot write"):
            check_target(path, folder=folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"], "looking writes nothing"
