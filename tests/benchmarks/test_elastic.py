"""The sides of the elastic benchmark take steps on the same rows, and the factor is against the deepest alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import elastic
import pytest

from prune2vec.data.triplet import write_triplets
from tests.tiny import save_tiny
from tests.training.encoders import rows


@pytest.mark.parametrize("method", ["lora", "full"])
def test_three_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str) -> None:
    write_triplets([*rows(10, "one"), *rows(10, "two", start=10)], tmp_path / "texts.jsonl")
    given = {"data": tmp_path / "texts.jsonl", "model": save_tiny(tmp_path / "m"), "out": tmp_path / "out.json"}
    given |= {"batch": 8, "max-length": 32, "rounds": 2, "device": "cpu", "dtype": "float32", "method": method}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--depths", "1", "3", "5"])
    elastic.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["steps_per_round"] == 2
    assert list(found["sides"]) == ["depth 5 alone", "depths 1,3,5 at once", "each depth in a run of its own"]
    assert [len(side["seconds"]) for side in found["sides"].values()] == [2, 2, 2]
    assert found["sides"]["depth 5 alone"]["factor"] == 1
    assert [line.split(" | ")[0].removeprefix("| ") for line in capsys.readouterr().out.splitlines()[2:]] == list(
        found["sides"]
    )
