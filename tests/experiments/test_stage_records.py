from __future__ import annotations

import json
from pathlib import Path

import pytest

from prune2vec.experiments.stage_records import StageRecord, is_done, listing, load_stamp, save_stamp
from prune2vec.files import digest_json


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(b"abc")
    (folder / "sub" / "b.bin").write_bytes(b"def")
    return folder


def stamped(tmp_path: Path, output: Path) -> StageRecord | None:
    save_stamp(tmp_path / "stamp.json", stage="x", inputs={"a": 1}, output=output, seconds=1.0)
    return load_stamp(tmp_path / "stamp.json")


def test_done_only_with_its_key(tmp_path: Path, output: Path) -> None:
    stamp = stamped(tmp_path, output)
    assert is_done(stamp, key=digest_json({"a": 1}), output=output)
    assert not is_done(stamp, key=digest_json({"a": 2}), output=output)
    assert not is_done(None, key=digest_json({"a": 1}), output=output)


@pytest.mark.parametrize("change", ["bytes", "longer", "gone", "more", "all gone"])
def test_changed_output_is_noticed(tmp_path: Path, output: Path, change: str) -> None:
    stamp = stamped(tmp_path, output)
    if change == "bytes":
        (output / "sub" / "b.bin").write_bytes(b"dXf")
    elif change == "longer":
        (output / "a.bin").write_bytes(b"abcd")
    elif change == "gone":
        (output / "a.bin").unlink()
    elif change == "more":
        (output / "c.bin").write_bytes(b"")
    else:
        output.rename(tmp_path / "elsewhere")
    assert not is_done(stamp, key=digest_json({"a": 1}), output=output)


def test_hidden_files_do_not_count(tmp_path: Path, output: Path) -> None:
    stamp = stamped(tmp_path, output)
    (output / ".cache").mkdir()
    (output / ".cache" / "x").write_text("x")
    assert is_done(stamp, key=digest_json({"a": 1}), output=output)


def test_single_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text("{}")
    assert list(listing(file)) == ["plan.json"]
    assert listing(tmp_path / "nothing") == {}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "prune2vec.stamp/0"}', '{"format": "prune2vec.stamp/1"}', "{"])
def test_broken_stamp_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "stamp.json").write_text(content)
    assert load_stamp(tmp_path / "stamp.json") is None


def test_empty_output_is_never_done(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    stamp = stamped(tmp_path, empty)
    assert not is_done(stamp, key=digest_json({"a": 1}), output=empty)


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


def test_stamp_file_is_readable_json(tmp_path: Path, output: Path) -> None:
    stamped(tmp_path, output)
    value = json.loads((tmp_path / "stamp.json").read_text())
    assert value["inputs"] == {"a": 1}
    assert set(value["output"]) == {"a.bin", "sub/b.bin"}
