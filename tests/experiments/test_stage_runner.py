from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import CheckpointError
from prune2vec.experiments.stage_runner import StageRunner
from prune2vec.files import write_text
from prune2vec.outputs import OwnFolder, staged_folder


class Writer:
    """Writes a file and counts how often."""

    def __init__(self, text: str = "x") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, path: Path) -> None:
        self.calls += 1
        with staged_folder(path, "a test") as stage:
            write_text(stage / "file.txt", self.text)
            write_text(stage / "more.txt", self.text)


def do(folder: Path, action: Writer, *, dry_run: bool = False, **inputs: object) -> tuple[str | None, str, str]:
    ledger = StageRunner(folder, None if dry_run else OwnFolder(folder, "a run"))
    digest = ledger.do("a.b", action, output="out", inputs=inputs)
    return digest, ledger.steps[0].outcome, ledger.steps[0].detail


def test_done_once_then_skipped(tmp_path: Path) -> None:
    action = Writer()
    first = do(tmp_path, action, x=1)
    again = do(tmp_path, action, x=1)
    assert (first[1], again[1], action.calls) == ("done", "skipped", 1)
    assert first[0] == again[0]


def test_changed_input_is_done_again_and_named_in_a_dry_run(tmp_path: Path) -> None:
    action = Writer()
    do(tmp_path, action, x=1, y=1)
    assert do(tmp_path, action, dry_run=True, x=2, y=1)[1:] == ("would run", "changed: x")
    assert do(tmp_path, action, x=2, y=1)[1] == "done"
    assert action.calls == 2


def test_what_is_left_of_an_output_is_removed_before_it_is_made_again(tmp_path: Path) -> None:
    do(tmp_path, Writer(), x=1)
    (tmp_path / "out" / "file.txt").unlink()
    assert do(tmp_path, Writer(), dry_run=True, x=1)[2] == "its output is not what it left"

    def look(path: Path) -> None:
        assert not path.exists()
        Writer()(path)

    ledger = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"))
    ledger.do("a.b", look, output="out", inputs={"x": 1})
    assert (tmp_path / "out" / "file.txt").read_text() == "x"


@pytest.mark.parametrize("name", ["file.txt", "other.txt"])
def test_an_output_that_the_user_changed_is_refused(tmp_path: Path, name: str) -> None:
    do(tmp_path, Writer(), x=1)
    write_text(tmp_path / "out" / name, "mine")
    with pytest.raises(CheckpointError, match=name):
        do(tmp_path, Writer(), x=1)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_what_is_needed_is_looked_for_once_and_only_if_something_is_to_be_done(tmp_path: Path) -> None:
    looks: list[int] = []
    for _ in range(2):
        ledger = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"), before=lambda: looks.append(1))
        for name in ("a", "b"):
            ledger.do(name, Writer(), output=name, inputs={})
    assert looks == [1]


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    action = Writer()
    assert do(tmp_path / "run", action, dry_run=True, x=1) == (None, "would run", "not done yet")
    assert action.calls == 0
    assert not (tmp_path / "run").exists()


def test_unknown_input_means_would_run(tmp_path: Path) -> None:
    do(tmp_path, Writer(), x=1)
    assert do(tmp_path, Writer(), dry_run=True, x=None)[:2] == (None, "would run")


def test_failed_stage_is_not_done(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with staged_folder(path, "a test") as stage:
            write_text(stage / "file.txt", "half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        StageRunner(tmp_path, OwnFolder(tmp_path, "a run")).do("a.b", fail, output="out", inputs={"x": 1})
    assert do(tmp_path, Writer(), x=1)[1] == "done"


def test_reuse_forgets_the_stages_of_an_earlier_plan(tmp_path: Path) -> None:
    ledger = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"))
    ledger.do("large.train", Writer(), output="large/encoder", inputs={"x": 1})
    ledger.reuse("large", "full", stages=("train",))
    assert not (tmp_path / "stamps" / "large.train.json").exists()
    assert "same as full" in ledger.steps[-1].render()
