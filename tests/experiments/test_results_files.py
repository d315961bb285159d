from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import DataError
from prune2vec.experiments.results_files import find_results


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for name in ("one/full", "one/small", "two/full"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "results.json").write_text("{}")
    (tmp_path / "mine.json").write_text("{}")
    return tmp_path


def test_files_folders_and_runs(runs: Path) -> None:
    found = find_results([runs / "mine.json", runs / "one", runs / "two" / "full"])
    assert found == {
        "mine": runs / "mine.json",
        "one/full": runs / "one" / "full" / "results.json",
        "small": runs / "one" / "small" / "results.json",
        "two/full": runs / "two" / "full" / "results.json",
    }


def test_names_are_as_short_as_can_be(runs: Path) -> None:
    assert list(find_results([runs / "one"])) == ["full", "small"]
    assert list(find_results([runs / "one" / "full", runs / "two" / "full"])) == ["one/full", "two/full"]
    assert list(find_results([runs / "mine.json", runs / "one" / "small" / "results.json"])) == ["mine", "small"]


def test_same_file_counts_once(runs: Path) -> None:
    assert len(find_results([runs / "one", runs / "one" / "full"])) == 2


def test_nothing_there(runs: Path) -> None:
    (runs / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no results\.json"):
        find_results([runs / "empty"])
    with pytest.raises(DataError, match="does not exist"):
        find_results([runs / "none"])
    with pytest.raises(DataError, match="nothing to compare"):
        find_results([])
