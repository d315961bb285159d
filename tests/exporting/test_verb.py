"""``prune2vec export`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune2vec.cli.app import main
from tests.exporting.encoders import installed_targets, tiny_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=2)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    return tmp_path / "encoder"


def test_writes_and_reports(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(folder), "--target", "vllm", "-o", str(tmp_path / "out"), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["output"] == str(tmp_path / "out") and data["target"] == "vllm" and data["notes"]
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("target", installed_targets())
def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(folder), "--target", target, "-o", str(tmp_path / "out"), "--dry-run"]) == 0
    assert f"would export {folder} to {target}" in capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("source", "target", "output", "message"),
    [
        ("encoder", "vlm", "out", "did you mean 'vllm'?"),
        ("encodr", "vllm", "out", "does not exist"),
        ("bare-llama-0-0", "vllm", "out", "no modules.json"),
        ("encoder", "vllm", "encoder", "encoder"),
    ],
)
def test_trouble_is_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    target: str,
    output: str,
    message: str,
    more: list[str],
) -> None:
    code = main(["export", str(tmp_path / source), "--target", target, "-o", str(tmp_path / output), *more])
    error = capsys.readouterr().err
    assert code == 1 and message in error and error.count("\n") == 1
