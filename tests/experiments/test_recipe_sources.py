from __future__ import annotations

from pathlib import Path

from prune2vec.experiments.recipe_sources import SourceDigests, installed_packages


def test_paths_by_content_and_names_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    first = SourceDigests().of(str(tmp_path / "a.jsonl"))
    (tmp_path / "a.jsonl").write_text("y")
    assert SourceDigests().of(str(tmp_path / "a.jsonl")) != first
    assert SourceDigests().of("owner/name") == "hub:owner/name"


def test_each_is_read_once(tmp_path: Path) -> None:
    sources = SourceDigests()
    (tmp_path / "a").write_text("x")
    first = sources.of(str(tmp_path / "a"))
    (tmp_path / "a").write_text("y")
    assert sources.of(str(tmp_path / "a")) == first
    assert list(sources.known()) == [str(tmp_path / "a")]


def test_what_is_not_made_yet_makes_the_whole_unknown() -> None:
    sources = SourceDigests()
    sources.set("mined", None)
    assert sources.together(["owner/name", "mined"]) is None
    sources.set("mined", "digest")
    assert sources.together(["owner/name", "mined"]) == sources.together(["owner/name", "mined"])
    assert sources.together(["owner/name", "mined"]) != sources.together(["mined", "owner/name"])


def test_installed_packages_are_stable() -> None:
    assert installed_packages() == installed_packages()
