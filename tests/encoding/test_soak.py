"""The soak of ``benchmarks/soak.py``, shorter: it must reach its own verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_thousand_texts_and_three_kills(tmp_path: Path, folder: Path) -> None:
    words = ["--work", tmp_path / "w", "--encoder", folder, "--texts", 20_000, "--kills", 3, "--part-rows", 500]
    words += ["--sample", 200, "--twice", "--out", tmp_path / "soak.json"]
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "soak.json").read_text())["runs"]
    assert len(runs["killed"]["kills"]) == 3
    assert runs["killed"]["digest"] == runs["left alone"]["digest"]
    assert all(run["verdict"] and run["rows"] == 20_000 for run in runs.values())
