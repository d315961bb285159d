"""What may be continued, and how a half-written state is cleaned."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import TrainingError
from prune2vec.resume import WorkFolder, cut_back, differences, read_lines

IDENTITY = {"settings": {"scale": 50.0, "steps": 10}, "data": "abc"}


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    return WorkFolder.beside(tmp_path / "encoder")


def checkpoint(work: WorkFolder, step: int, *, whole: bool = True) -> Path:
    folder = work.checkpoint(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_text("...")
    if whole:
        work.complete(step)
    return folder


def test_newest_whole_checkpoint_is_found_and_half_ones_go(work: WorkFolder) -> None:
    assert work.open(IDENTITY, restart=False) is None
    checkpoint(work, 80)
    newest = checkpoint(work, 100)
    half = checkpoint(work, 120, whole=False)
    assert work.open(IDENTITY, restart=False) == newest
    assert not half.exists()


@pytest.mark.parametrize("damage", ["", None, "...."])
def test_a_damaged_checkpoint_is_not_resumed_from(
    work: WorkFolder, capsys: pytest.CaptureFixture[str], damage: str | None
) -> None:
    assert work.open(IDENTITY, restart=False) is None
    before, newest = checkpoint(work, 80), checkpoint(work, 100)
    weights = newest / "weights"
    weights.unlink() if damage is None else weights.write_text(damage)
    assert work.open(IDENTITY, restart=False) == before
    assert not newest.exists()
    assert (
        f"checkpoint-100 is damaged and is not resumed from: weights has {len(damage or '')} bytes of 3"
        in capsys.readouterr().err
    )


def test_curves_are_cut_back_to_the_checkpoint(work: WorkFolder) -> None:
    work.open(IDENTITY, restart=False)
    checkpoint(work, 2)
    work.curve.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    work.dev.write_text('{"step": 2}\n{"step": 4}\n')
    work.open(IDENTITY, restart=False)
    assert [line["step"] for line in read_lines(work.curve)] == [1, 2]
    assert work.dev.read_text() == '{"step": 2}\n'


def test_another_identity_is_refused_by_name_or_discarded(work: WorkFolder) -> None:
    work.open(IDENTITY, restart=False)
    checkpoint(work, 5)
    other = {"settings": {"scale": 20.0, "steps": 10}, "data": "xyz"}
    with pytest.raises(TrainingError, match=r"\(the training texts changed; scale 50\.0, now 20\.0\); go back .* set restart"):
        work.open(other, restart=False)
    assert work.open(IDENTITY, restart=True) == work.checkpoint(5)
    assert work.open(other, restart=True) is None
    assert not work.checkpoint(5).exists()


def test_differences_see_new_and_missing_entries() -> None:
    assert differences(IDENTITY, IDENTITY) == ""
    assert differences(IDENTITY, {**IDENTITY, "dtype": "bfloat16"}) == "dtype None, now bfloat16"
    assert differences({"a": 1}, {"a": 1.0}) == "a 1, now 1.0"


def test_cutting_back_needs_no_file(tmp_path: Path) -> None:
    cut_back(tmp_path / "none.jsonl", 3)
    assert not (tmp_path / "none.jsonl").exists()


def test_tidying_up_that_fails_hides_no_error(work: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: WorkFolder) -> None:
        raise OSError("read-only")

    work.open(IDENTITY, restart=False)
    monkeypatch.setattr(WorkFolder, "remove", full)
    with pytest.raises(TrainingError, match="not finite"), work.left_on_failure():
        raise TrainingError("not finite")


def test_only_the_same_run_is_removed(work: WorkFolder) -> None:
    work.open(IDENTITY, restart=False)
    work.remove_if({**IDENTITY, "data": "xyz"})
    assert work.folder.exists()
    work.remove_if(IDENTITY)
    assert not work.folder.exists()
