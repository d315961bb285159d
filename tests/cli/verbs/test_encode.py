"""``encode`` and ``search`` on the command line: what is checked before anything heavy starts, and the way from text to hit."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.pruning.prune import prune_model
from tests.cli.conftest import Cli
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    model = save_tiny(tmp_path / "model", bos=True)
    return prune_model(str(model), plan_for(model, [0]), tmp_path / "encoder", max_length=64)


def test_encode_then_search(cli: Cli, tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the lazy dog\nbirds sing in the morning\na quick fox\n")
    for shard in ("0/2", "1/2"):
        ran = cli("encode", "encoder", "corpus.txt", "-o", "vectors", "--shard", shard, "--dtype", "float32", "--json")
        assert ran.code == 0, ran.err
    assert ran.data["rows"] == ran.data["encoded"] == 1
    found = cli("search", "vectors", "the lazy dog", "-k", "1", "--corpus", "corpus.txt", "--dtype", "float32")
    assert found.code == 0, found.err
    # The same text under the same (empty) prompt.
    assert found.out.split() == ["the", "lazy", "dog", "1", "1.0000", "0", "the", "lazy", "dog"]


def test_search_of_half_an_encoding(cli: Cli, tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "corpus.txt").write_text("the lazy dog\nbirds sing in the morning\n")
    assert cli("encode", "encoder", "corpus.txt", "-o", "vectors", "--shard", "1/2").code == 0
    refused = cli("search", "vectors", "dog")
    assert refused.code == 1
    assert "lacks shard 0 of 2" in refused.err
    dry = ("encode", "encoder", "corpus.txt", "-o", "vectors", "--dry-run")
    assert cli(*dry, "--shard", "0/2").code == cli(*dry, "--ray", "2").code == 0
    for others in (("--shard", "0/3"), ("--ray", "3"), ()):
        assert "holds 2 shards" in cli(*dry, *others).err
    assert cli("search", "vectors", "dog", "--partial", "--json").data["rows"] == 1


@pytest.mark.parametrize("value", ["0", "-1", "many", "1000000", "9" * 5000])
def test_ray_takes_a_number_or_auto(cli: Cli, tmp_path: Path, encoder: Path, value: str) -> None:
    (tmp_path / "corpus.txt").write_text("a\n")
    ran = cli("encode", "encoder", "corpus.txt", "-o", "vectors", f"--ray={value}")
    assert ran.code == 2
    assert "expected a number of shards from 1 to 999,999, or auto" in ran.err
    assert not (tmp_path / "vectors").exists()


def test_dry_run(cli: Cli, tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "corpus.txt").write_text("a\n")
    ran = cli("encode", "encoder", "corpus.txt", "-o", "vectors", "--ray", "auto", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["settings"]["shard"] == "0/1"
    assert not (tmp_path / "vectors").exists()
