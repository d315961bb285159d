"""All sides train the same batches from the same start."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import train_speed
from common import ChildRun

from prune2vec.data.triplet import write_triplets
from tests.tiny import save_tiny
from tests.training.encoders import rows


def test_every_side_starts_with_the_same_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_triplets([*rows(10, "one"), *rows(10, "two", start=10)], tmp_path / "texts.jsonl")
    given = {"data": tmp_path / "texts.jsonl", "model": save_tiny(tmp_path / "m"), "out": tmp_path / "out.json"}
    given |= {"layers": 2, "batches": 8, "top": 1, "max-length": 32, "rounds": 1, "warmup": 0}
    given |= {"device": "cpu", "dtype": "float32"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["x", *words, "--sides", *train_speed.SIDES])
    monkeypatch.setattr(train_speed, "run_child", _in_this_process)
    train_speed.main()
    (case,) = json.loads((tmp_path / "out.json").read_text())["cases"].values()
    assert (case["steps_per_round"], list(case["sides"])) == (2, list(train_speed.SIDES))
    losses = [side["losses"] for side in case["sides"].values()]
    assert [len(one) for one in losses] == [2] * 4
    assert [one[0] for one in losses] == pytest.approx([losses[0][0]] * 4, rel=1e-5)
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].rpartition(", ")[2] for line in table[2:]] == list(train_speed.SIDES)


def _in_this_process(words: list[str]) -> ChildRun:
    before, printed = sys.argv, io.StringIO()
    try:
        sys.argv = words
        options = train_speed.parsed()
    finally:
        sys.argv = before
    with redirect_stdout(printed):
        train_speed.child(options, train_speed.tables_for(options))
    return ChildRun(1.0, 10**6, printed.getvalue())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--synthetic-8b-cut", "5", "25"], [(5, 64), (25, 64)]),
        (["--synthetic-8b-cut", "5", "--synthetic-batch", "16"], [(5, 16)]),
        (["--data", "somewhere"], [(7, 32), (30, 8)]),
    ],
)
def test_cases(monkeypatch: pytest.MonkeyPatch, words: list[str], expected: list[tuple[int, int]]) -> None:
    monkeypatch.setattr(sys, "argv", ["x", *words])
    assert train_speed.cases_of(train_speed.parsed()) == expected
