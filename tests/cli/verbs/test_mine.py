"""``mine negatives`` on a tiny encoder."""

from __future__ import annotations

from dataclasses import replace
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


def test_a_dry_run_refuses_what_the_call_would(cli: Cli, tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "encoder")
    write_triplets(rows(12), tmp_path / "rows.jsonl")
    write_triplets((replace(row, negatives=()) for row in rows(12)), tmp_path / "pairs.jsonl")
    for line, said in (
        ("mine negatives rows.jsonl --model encoder -o rows.jsonl", "the rows are read from it"),
        ("mine negatives rows.jsonl --model encoder -o hard.txt", r"must end in .jsonl"),
        ("mine negatives rows.jsonl --model rows.jsonl -o hard.jsonl", "rows.jsonl"),
        ("mine nodir -o triplets", "no such folder"),
        ("mine rows.jsonl -o triplets", "no such folder"),
        ("encode encoder rows.jsonl --text-column positive --shard 3/2 -o vectors", "numbered from 0 to 1"),
        ("train encoder --data pairs.jsonl -o trained", "column negative is missing"),
    ):
        ran = cli(*line.split(), "--dry-run")
        assert ran.code == 1 and said in ran.err and ran.err.count("\n") == 1, (line, ran.err)
    for line in (
        "mine negatives pairs.jsonl --model encoder -o hard.jsonl",
        "train encoder --data pairs.jsonl -o trained --hard-negatives 0",
    ):
        ran = cli(*line.split(), "--dry-run")
        assert ran.code == 0, ran.err


def test_a_settings_file_may_list_sources(cli: Cli, tmp_path: Path) -> None:
    save_tiny_encoder(tmp_path / "encoder")
    for name in ("a", "b"):
        write_triplets(rows(12), tmp_path / f"{name}.jsonl")
    (tmp_path / "train.yaml").write_text("data: [a.jsonl, b.jsonl]\n")
    ran = cli("train", "encoder", "--config", "train.yaml", "-o", "trained", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["reads"] == ["encoder", "a.jsonl", "b.jsonl"]
