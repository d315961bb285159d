from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune2vec.errors import CheckpointError
from prune2vec.experiments.stage_runner import SourceDigests, StageRecord, StageRunner, installed_packages, listing
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
    runner = StageRunner(folder, None if dry_run else OwnFolder(folder, "a run"))
    digest = runner.do("a.b", action, output="out", inputs=inputs)
    return digest, runner.steps[0].outcome, runner.steps[0].detail


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

    runner = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"))
    runner.do("a.b", look, output="out", inputs={"x": 1})
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
        runner = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"), before=lambda: looks.append(1))
        for name in ("a", "b"):
            runner.do(name, Writer(), output=name, inputs={})
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
    runner = StageRunner(tmp_path, OwnFolder(tmp_path, "a run"))
    runner.do("large.train", Writer(), output="large/encoder", inputs={"x": 1})
    runner.reuse("large", "full", stages=("train",))
    assert not (tmp_path / "stamps" / "large.train.json").exists()
    assert "same as full" in runner.steps[-1].render()


def test_paths_by_content_and_names_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("x")
    first = SourceDigests()[str(tmp_path / "a.jsonl")]
    (tmp_path / "a.jsonl").write_text("y")
    assert SourceDigests()[str(tmp_path / "a.jsonl")] != first
    assert SourceDigests()["owner/name"] == "hub:owner/name"


def test_each_is_read_once(tmp_path: Path) -> None:
    sources = SourceDigests()
    (tmp_path / "a").write_text("x")
    first = sources[str(tmp_path / "a")]
    (tmp_path / "a").write_text("y")
    assert sources[str(tmp_path / "a")] == first
    assert list(sources) == [str(tmp_path / "a")]


def test_what_is_not_made_yet_makes_the_whole_unknown() -> None:
    sources = SourceDigests()
    sources["mined"] = None
    assert sources.together(["owner/name", "mined"]) is None
    sources["mined"] = "digest"
    assert sources.together(["owner/name", "mined"]) == sources.together(["owner/name", "mined"])
    assert sources.together(["owner/name", "mined"]) != sources.together(["mined", "owner/name"])


def test_installed_packages_are_stable() -> None:
    assert installed_packages() == installed_packages()


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "sub" / "b.bin").write_bytes(b"def")
    return folder


def recorded(output: Path) -> StageRecord:
    return StageRecord(stage="x", key="k", inputs={"a": 1}, output=listing(output), seconds=1.0, finished="now")


@pytest.mark.parametrize("change", ["none", "bytes", "longer", "gone", "more", "all gone"])
def test_changed_output_is_noticed(tmp_path: Path, output: Path, change: str) -> None:
    record = recorded(output)
    if change == "bytes":
        (output / "sub" / "b.bin").write_bytes(b"dXf")
    elif change == "longer":
        (output / "a.bin").write_bytes(b"abcd")
    elif change == "gone":
        (output / "a.bin").unlink()
    elif change == "more":
        (output / "c.bin").write_bytes(b"")
    elif change == "all gone":
        output.rename(tmp_path / "elsewhere")
    assert record.is_current(output) == (change == "none")


def test_hidden_files_do_not_count(output: Path) -> None:
    record = recorded(output)
    (output / ".cache").mkdir()
    (output / ".cache" / "x").write_text("x")
    assert record.is_current(output)


def test_single_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("{}")
    assert list(listing(file)) == ["plan.json"]
    assert listing(tmp_path / "nothing") == {}


WRONG = (
    '{"format": "prune2vec.stamp/1", "stage": "x", "key": "k", "inputs": null, "output": {}, "seconds": 1.0, "finished": "now"}'
)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": "prune2vec.stamp/0"}', '{"format": "prune2vec.stamp/1"}', "{", WRONG]
)
def test_broken_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "stamp.json").write_text(content)
    assert StageRecord.load(tmp_path / "stamp.json") is None


def test_empty_output_is_never_done(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not recorded(empty).is_current(empty)


def test_large_files_are_sampled_at_both_ends(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    with file.open("wb") as stream:
        stream.truncate(257 << 20)  # A hole: large, but it takes no disk.
    before = listing(file)
    for place in (0, (257 << 20) - 1):
        with file.open("r+b") as stream:
            stream.seek(place)
            stream.write(b"x")
        assert listing(file) != before
        before = listing(file)


def test_record_file_is_readable_json(tmp_path: Path) -> None:
    do(tmp_path, Writer(), a=1)
    value = json.loads((tmp_path / "stamps" / "a.b.json").read_text())
    assert value["format"] == "prune2vec.stamp/1"
    assert value["inputs"]["a"] == 1
    assert set(value["output"]) == {"file.txt", "more.txt"}
