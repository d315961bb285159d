"""``profile`` with scorers beside the layer-loss."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli
from tests.tiny import save_tiny

MEASURE = ("--groups", "2", "--group-size", "8", "--max-length", "64", "--dtype", "float32")


def test_redundancy_is_measured_drawn_and_told(cli: Cli, tmp_path: Path, triplets_file: Path) -> None:
    save_tiny(tmp_path / "model", "llama")
    (tmp_path / "book.txt").write_text("the quick brown fox " * 100)
    (tmp_path / "windows.yaml").write_text("windows: 4\nwindow-length: 32\n")
    plain = ("--plain", "book.txt", "--config", "windows.yaml")
    words = ("profile", "model", "--texts", triplets_file, *MEASURE, "--scorers", "redundancy,redundancy-plain", *plain)
    ran = cli(*words, "-o", "sub/p.json")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert "least important on retrieval text, as layer (1 - cosine), least first:" in lines
    assert any(line.startswith("rank correlation of plain with retrieval text: attention ") for line in lines)
    assert lines[-3:] == ["sub/p.json", "sub/p.svg", "sub/p.redundancy.svg"]
    assert (tmp_path / "sub" / "p.redundancy.svg").read_text(encoding="utf-8").count("<svg") == 1
    data = cli(*words, "-o", "q.json", "--json").data
    assert len(data["sections"]["redundancy"]["mlp"]) == 5
    assert data["sections"]["redundancy-plain"]["tokens"] == 128


def test_mistakes_are_told_before_anything_is_loaded(cli: Cli, tmp_path: Path, triplets_file: Path) -> None:
    save_tiny(tmp_path / "model", "llama")
    words = ("profile", "model", "--texts", triplets_file, "--dry-run", "--scorers")
    for scorer, message in (
        ("redundency", "did you mean 'redundancy'"),
        ("redundancy-plain", "reads plain text, and none is given"),
    ):
        ran = cli(*words, scorer)
        assert ran.code == 1
        assert message in ran.err
    assert cli(*words, "all").code == 0
    ran = cli(*words, "redundancy-plain", "--plain", "no.txt")
    assert ran.code == 1
    assert "no.txt" in ran.err


def test_the_profile_may_not_have_the_name_of_its_picture(cli: Cli, triplets_file: Path) -> None:
    ran = cli("profile", "smollm2", "--texts", triplets_file, "-o", "p.svg", "--dry-run")
    assert ran.code == 2
    assert "p.svg is the name of the picture" in ran.err


def test_a_picture_of_the_users_is_not_written_over(cli: Cli, triplets_file: Path, tmp_path: Path) -> None:
    (tmp_path / "fig.svg").write_text("mine")
    ran = cli("profile", "gpt2", "--texts", triplets_file, "-o", "fig.json", "--dry-run")
    assert ran.code == 1 and "cannot write fig.svg, the picture of fig.json: it is there" in ran.err
    assert (tmp_path / "fig.svg").read_text() == "mine"
