"""Both sides of the comparison compute the same curve from the same file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import profile_speed
import pytest
from common import ChildRun

from tests.tiny import save_tiny


def arguments(tmp_path: Path) -> list[str]:
    rows = [
        {"query": f"fox {n}", "positive": f"the brown fox {n} {n * 7}", "negative": f"birds sing {n * 3}"} for n in range(64)
    ]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(map(json.dumps, rows)) + "\n")
    model = save_tiny(tmp_path / "m")
    return [
        "--texts",
        str(texts),
        "--model",
        str(model),
        "--device",
        "cpu",
        "--max-length",
        "32",
        "--out",
        str(tmp_path / "out.json"),
    ]


def test_two_sides_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["profile_speed.py", *arguments(tmp_path)])
    options = profile_speed._options()
    theirs, ours = (profile_speed._side(f"{side}:float32", options)() for side in ("paper", "ours"))
    assert theirs == pytest.approx(ours, abs=1e-4)
    assert len(set(ours)) == 5


def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *arguments(tmp_path), "--rounds", "1", "--scorer-rounds", "1"])
    monkeypatch.setattr(profile_speed, "run_child", _in_this_process)
    profile_speed.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert set(found["ways"]["default formats"]["sides"]) == {"paper's way", "prune2vec"}
    assert found["ways"]["default formats"]["largest_difference"] < 1e-4
    assert set(found["scorers"]) == {"layer-loss", "layer-loss, redundancy"}
    assert "| prune2vec | float32 |" in capsys.readouterr().out


def _in_this_process(words: list[object]) -> ChildRun:
    given = sys.argv
    try:
        sys.argv = [str(word) for word in words]
        options = profile_speed._options()
    finally:
        sys.argv = given
    return ChildRun(1.0, 10**6, json.dumps(profile_speed._side(options.child, options)()) + "\n")
