from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe_paths import absolute_paths


def absolute(values: dict[str, object], base: Path) -> dict[str, object]:
    return absolute_paths(
        {"variants": [{"name": "full"}], **values}, base=base, where=lambda location: ".".join(map(str, location))
    )


def test_words_are_never_paths(tmp_path: Path) -> None:
    for name in ("smollm2", "docstrings", "full"):
        (tmp_path / name).mkdir()
    values = {"model": "smollm2", "data": {"mine": {"source": "docstrings"}}, "train": {"distil_from": "full"}}
    assert absolute(values, tmp_path) == {"variants": [{"name": "full"}], **values}


def test_folder_wins_over_hub_name(tmp_path: Path) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert absolute({"model": "owner/name"}, tmp_path)["model"] == str(tmp_path / "owner" / "name")
    assert absolute({"model": "owner/other"}, tmp_path)["model"] == "owner/other"


@pytest.mark.parametrize("name", ["./x", "x/", "a/b/c", "x.gguf", "/nowhere/x", "~/nowhere-at-all"])
def test_what_can_only_be_a_path_must_exist(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"model: .* does not exist"):
        absolute({"model": name}, tmp_path)


def test_sections_that_are_null_are_left_alone(tmp_path: Path) -> None:
    values = {"train": None, "evaluate": None, "data": {"mine": None, "train": []}}
    assert absolute(values, tmp_path) == {"variants": [{"name": "full"}], **values}


def test_argument_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text("")
    values = {"variants": [], "data": {"train": ["t.jsonl"]}}
    absolute_paths(values, base=tmp_path, where=str)
    assert values == {"variants": [], "data": {"train": ["t.jsonl"]}}
