"""Turns are taken in order, ratios are those of the same round, and a child's memory is its own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import common
import pytest


def test_sides_take_turns_and_ratios_are_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    lasts = {"A": iter([9.0, 4.0, 6.0, 8.0]), "B": iter([9.0, 2.0, 2.0, 2.0])}

    def work(name: str) -> None:
        order.append(name)
        clock[0] += next(lasts[name])

    found = common.abab({"A": lambda: work("A"), "B": lambda: work("B")}, 3)
    assert order == ["A", "B"] * 4
    assert found["A"] == {"median": 6.0, "ratio": 1.0, "seconds": [4.0, 6.0, 8.0], "ratios": [1.0, 1.0, 1.0]}
    assert found["B"] == {"median": 2.0, "ratio": 3.0, "seconds": [2.0, 2.0, 2.0], "ratios": [2.0, 3.0, 4.0]}


def test_peak_of_a_child_is_not_that_of_its_parent() -> None:
    held = bytearray(300 << 20)
    small = common.run_child(["-S", "-c", "print('done')"])
    large = common.run_child(["-S", "-c", "held = bytearray(200 << 20)"])
    assert len(held) == 300 << 20
    assert small.stdout == "done\n"
    assert small.peak_rss < 100 << 20 < 200 << 20 <= large.peak_rss < 300 << 20


def test_child_that_fails() -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        common.run_child(["-S", "-c", "raise SystemExit(3)"])


def test_child_gets_its_environment() -> None:
    found = common.run_child(["-S", "-c", "import os; print(os.environ['GIVEN'])"], environment={"GIVEN": "yes"})
    assert found.stdout == "yes\n"


def test_table_and_result(tmp_path: Path) -> None:
    assert common.markdown_table(["a", "b"], [[1, 2.5]]) == "| a | b |\n| --- | ---: |\n| 1 | 2.5 |"
    common.write_result(tmp_path / "new" / "result.json", {"x": 1})
    found = json.loads((tmp_path / "new" / "result.json").read_text())
    assert found["x"] == 1
    assert "torch" in found["environment"]["versions"]


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (3.87e9, "3.87 GB"), (1.4e14, "140 TB")]
)
def test_human_bytes(count: float, shown: str) -> None:
    assert common.human_bytes(count) == shown
