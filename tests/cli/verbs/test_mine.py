"""``mine negatives`` on a tiny encoder."""

from __future__ import annotations

from pathlib import Path

from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import write_triplets
from tests.cli.conftest import Cli
from tests.training.encoders import rows, save_tiny_encoder


def test_hard_negatives_with_scores(cli: Cli, tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "encoder")
    write_triplets(rows(12), tmp_path / "rows.jsonl")
    line = ["mine", "negatives", "rows.jsonl", "--model", "encoder", "-o", "hard.jsonl", "--negatives", "2", "--score"]
    ran = cli(*line, "--dry-run")
    assert (ran.code, (tmp_path / "hard.jsonl").exists()) == (0, False)
    assert "negatives = 2" in ran.out
    ran = cli(*line, "--device", "cpu", "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.err == ""
    mined = load_triplets(tmp_path / "hard.jsonl")
    assert ran.data["written"] == len(mined) > 0
    assert all(len(row.scores) == 1 + len(row.negatives) <= 3 for row in mined)


def test_a_folder_called_negatives_can_be_mined(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "negatives").mkdir()
    ran = cli("mine", "./negatives", "-o", "triplets", "--dry-run")
    assert ran.code == 0, ran.err
    assert "mine negatives" in ran.out or "mine ./negatives" in ran.out


def test_the_preset_is_an_option_of_train(cli: Cli, tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "encoder")
    write_triplets(rows(12), tmp_path / "rows.jsonl")
    line = ["train", "encoder", "--data", "rows.jsonl", "-o", "trained", "--preset", "effir", "--lora-rank", "8", "--dry-run"]
    found = cli(*line, "--json").data["settings"]
    assert (found["lora_rank"], found["lora_alpha"], found["hard_negatives"], found["distil"]) == (8, 64, 7, "data")
