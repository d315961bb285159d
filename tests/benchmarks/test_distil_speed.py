"""Both sides learn the same vectors from the same start."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import distil_speed
import pytest

from prune2vec.data.triplet import write_triplets
from tests.tiny import save_tiny
from tests.training.encoders import rows


def test_both_sides_start_with_the_same_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_triplets(rows(10), tmp_path / "texts.jsonl")
    given = {"texts": tmp_path / "texts.jsonl", "model": save_tiny(tmp_path / "m"), "out": tmp_path / "out.json"}
    given |= {"layers": 2, "batch": 4, "steps": 3, "max-length": 32, "rounds": 1, "device": "cpu"}
    monkeypatch.setattr(sys, "argv", ["x", *(word for name, value in given.items() for word in (f"--{name}", str(value)))])
    distil_speed.main()
    sides = json.loads((tmp_path / "out.json").read_text())["sides"]
    losses = [side["losses"] for side in sides.values()]
    # A round before the first that is timed, and this one.
    assert [len(one) for one in losses] == [6, 6]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
