"""The whole chain on a tiny model, verb by verb: each reads what the one before has written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Cli
from tests.tiny import save_tiny

PROFILE = ("--groups", "2", "--group-size", "8", "--max-length", "64", "--dtype", "float32")


def test_chain(cli: Cli, tmp_path: Path, triplets_file: Path) -> None:
    save_tiny(tmp_path / "model", "llama")
    measured = cli("profile", "model", "--texts", triplets_file, *PROFILE, "-o", "profile.json", "--json")
    assert measured.code == 0, measured.err
    assert len(measured.data["layer_loss"]["loss"]) == 5
    assert set(measured.data["picks"]) == {"small", "large"}
    assert (tmp_path / "profile.svg").read_text(encoding="utf-8").count("<svg") == 1

    assert cli("plan", "profile.json", "--method", "depth", "--depth", "2").code == 0

    pruned = cli("prune", "model", "plan.json", "-o", "small", "--max-length", "64", "--json")
    assert pruned.code == 0, pruned.err
    assert pruned.data["plan"]["keep_layers"] == [0, 1]
    assert pruned.data["parity"] == json.loads((tmp_path / "small" / "parity.json").read_text(encoding="utf-8"))

    steps = ("--steps", "2", "--batch-size", "4", "--max-length", "64", "--dtype", "float32")
    trained = cli("train", "small", "--data", triplets_file, "-o", "encoder", *steps, "--json")
    assert trained.code == 0, trained.err
    assert trained.data["steps"] == 2

    for name in ("small", "encoder"):
        ran = cli(
            "evaluate",
            name,
            "--data",
            triplets_file,
            "-o",
            f"{name}.json",
            "--speed-texts",
            "4",
            "--json",
        )
        assert ran.code == 0, ran.err
        assert 0 <= ran.data["retrieval"]["metrics"]["ndcg@10"] <= 1

    compared = cli("compare", "small.json", "encoder.json", "-o", "report", "--json")
    assert compared.code == 0, compared.err
    assert len(compared.data["rows"]) == 2
    assert (tmp_path / "report" / "report.html").exists()
    assert "nDCG@10" in cli("compare", "small.json", "encoder.json").out


def test_stdout_is_the_result_and_stderr_our_progress(tmp_path: Path, triplets_file: Path) -> None:
    save_tiny(tmp_path / "model", "llama")
    words = ["profile", "model", "--texts", triplets_file.name, *PROFILE, "--json"]
    done = subprocess.run([sys.executable, "-m", "prune2vec", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == "profile.json"
    foreign = [line for line in done.stderr.splitlines() if not line.startswith("profile:")]
    assert not foreign
