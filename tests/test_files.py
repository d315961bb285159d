from __future__ import annotations

import errno
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from prune2vec.errors import CheckpointError, DataError
from prune2vec.files import (
    digest_file,
    digest_json,
    digest_tree,
    explained_os_errors,
    no_collection,
    read_json,
    write_bytes,
    write_json,
    write_text,
)
from prune2vec.outputs import staged_folder

ONE_LINE = r"^cannot write [^\n]+$"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Texts and JSON


def test_text_is_written_whole_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text(path, "naïve — 東京\n")
    assert path.read_text(encoding="utf-8") == "naïve — 東京\n"
    assert names(path.parent) == ["note.txt"]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old" and names(tmp_path) == ["note.txt"]


@given(value=json_values)
def test_json_round_trip(value: object, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.json"
    write_json(path, value)
    assert read_json(path) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_never_written(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": [1.0, value]})
    assert names(tmp_path) == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json(value)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_nan_and_infinity_are_never_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(f'{{"loss": [1.0, {name}]}}')
    with pytest.raises(DataError, match=rf"^{path}: holds {name}, which is not JSON; make the file again$"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ":1: not JSON: Expecting value"),
        (b'{"a": 1,\n "b": }', ":2: not JSON: Expecting value"),
        (b'{"a": 1', ":1: not JSON: "),
        (b"\xff\xfe\x00", ": not UTF-8 text (byte 0); expected a JSON file"),
        (b"\xef\xbb\xbf{}", ":1: not JSON: "),
    ],
)
def test_broken_json_gives_file_and_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}{message}") and "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^cannot read [^\n]+: No such file or directory$"):
        read_json(tmp_path / "none.json")
    with pytest.raises(DataError, match=r"^cannot read [^\n]+: Is a directory$"):
        read_json(tmp_path)


# What the operating system refuses. Tests may run as root, whom no permission bit stops.


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        write_text(tmp_path / "file" / "deep" / "note.txt", "x")
    assert "a file where a folder is needed" in str(caught.value) and str(tmp_path / "file") in str(caught.value)
    with (
        pytest.raises(CheckpointError, match="a file where a folder is needed"),
        staged_folder(tmp_path / "file" / "out", "a test"),
    ):
        pass


def test_a_folder_where_a_file_is_needed(tmp_path: Path) -> None:
    (tmp_path / "note.txt").mkdir()
    with pytest.raises(CheckpointError, match=r"^cannot write [^\n]+note.txt: Is a directory$"):
        write_text(tmp_path / "note.txt", "x")
    assert names(tmp_path) == ["note.txt"]


def test_a_place_where_nobody_may_write() -> None:
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a file system that refuses even root")
    with (
        pytest.raises(CheckpointError, match=r"^cannot write /proc/self/out: [^\n]+$"),
        staged_folder(Path("/proc/self/out"), "a test"),
    ):
        pass


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_no_permission_says_what_to_do(code: int, tmp_path: Path) -> None:
    with (
        pytest.raises(
            CheckpointError, match=rf"^cannot write {tmp_path}: {os.strerror(code)}; choose a folder that you may write to$"
        ),
        explained_os_errors(tmp_path),
    ):
        raise OSError(code, os.strerror(code))


def test_a_full_disk_says_what_to_do() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(
            CheckpointError, match=r"^cannot write /dev/full: No space left on device; free some space or write elsewhere"
        ),
        explained_os_errors(full),
        full.open("wb", buffering=0) as file,
    ):
        file.write(b"x")


LIMITED = """
import resource, signal, sys
from pathlib import Path
from prune2vec.errors import CheckpointError
from prune2vec.files import write_text
from prune2vec.outputs import staged_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
root = Path(sys.argv[1])
with staged_folder(root / "out", "a test") as stage:
    (stage / "old").write_text("old")
for write in (lambda: write_text(root / "note.txt", "x" * 9000), lambda: staged()):
    def staged():
        with staged_folder(root / "out", "a test") as stage:
            (stage / "small").write_text("x")
            (stage / "large").write_text("x" * 9000)
    try:
        write()
    except CheckpointError as error:
        print(error)
"""


def test_a_write_that_breaks_off_half_way_leaves_the_old_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"cannot write {tmp_path / name}: File too large" for name in ("note.txt", "out")]
    assert names(tmp_path) == ["note.txt", "out"] and (tmp_path / "out" / "old").read_text() == "old"
    assert (tmp_path / "note.txt").read_text() == "old"


def test_what_could_not_be_read_while_writing_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.bin"
    with (
        pytest.raises(CheckpointError, match=rf"No such file or directory: {missing}$"),
        staged_folder(tmp_path / "out", "a test"),
    ):
        missing.read_bytes()


def test_a_failed_write_of_safetensors_is_explained_too(tmp_path: Path) -> None:
    target = tmp_path / "none" / "x.safetensors"
    with pytest.raises(CheckpointError, match=ONE_LINE), explained_os_errors(target):
        save_file({"x": torch.zeros(2)}, target)


def test_a_failed_write_of_a_tokeniser_is_explained_too(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    with (
        pytest.raises(
            CheckpointError, match=rf"^cannot write {tmp_path}: No space left on device .*; free some space or write"
        ),
        explained_os_errors(tmp_path),
    ):
        Tokenizer(models.BPE()).save(str(full))


def test_other_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(KeyError), staged_folder(tmp_path / "out", "a test"):
        raise KeyError("x")
    assert names(tmp_path) == []


# Digests


def test_known_digests(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_file(path) == digest_tree(path) == known
    assert (
        digest_json({"b": [1, 2.5, None, "é"], "a": True}) == "c4a4f1f12239cd499c5102e16bea810b04391b9c66edd63615a4baa9ca5d2369"
    )


def test_a_json_digest_does_not_depend_on_key_order_or_on_tuples() -> None:
    assert digest_json({"a": 1, "b": {"c": (1, 2), "d": 3}}) == digest_json({"b": {"d": 3, "c": [1, 2]}, "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2}) != digest_json({"a": "2"})


def test_a_tree_digest_sees_names_and_contents_but_not_hidden_files_or_times(tmp_path: Path) -> None:
    def tree(name: str, **files: str) -> str:
        for file, text in files.items():
            path = tmp_path / name / file.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return digest_tree(tmp_path / name)

    base = tree("one", a="1", sub__b="2")
    assert tree("two", sub__b="2", a="1") == base
    (tmp_path / "two" / ".hidden").write_text("x")
    (tmp_path / "two" / ".cache").mkdir()
    (tmp_path / "two" / ".cache" / "y").write_text("y")
    os.utime(tmp_path / "two" / "a", (0, 0))
    assert digest_tree(tmp_path / "two") == base
    (tmp_path / "two" / "made.json").write_text("today")
    assert digest_tree(tmp_path / "two") != base == digest_tree(tmp_path / "two", without=["made.json"])
    assert (
        len({base, tree("three", a="2", sub__b="1"), tree("four", a="1", b="2"), tree("five", a="1"), tree("six", a="12")}) == 5
    )


def test_what_is_not_there_has_no_digest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        digest_tree(tmp_path / "none")


def test_the_written_form_of_json_is_stable(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    assert (tmp_path / "x.json").read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"b": 1, "a": "é"}


def test_threads_that_write_one_file_leave_one_whole(tmp_path: Path) -> None:
    contents = [bytes([number]) * 5000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            list(pool.map(lambda content: write_bytes(tmp_path / "file", content), contents))
    assert (tmp_path / "file").read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# The garbage collector


def test_the_garbage_collector_is_as_it_was_after_what_fails() -> None:
    for was_on in (True, False):
        (gc.enable if was_on else gc.disable)()
        try:
            with pytest.raises(KeyError), no_collection():
                assert not gc.isenabled()
                raise KeyError
            assert gc.isenabled() == was_on
        finally:
            gc.enable()


def test_json_is_read_while_the_collector_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "tokenizer.json", [["a", "b"]])
    seen, plain = [], json.loads

    def loads(text: str, **how: Any) -> Any:
        seen.append(gc.isenabled())
        return plain(text, **how)

    monkeypatch.setattr("prune2vec.files.json.loads", loads)
    assert read_json(tmp_path / "tokenizer.json") == [["a", "b"]]
    assert seen == [False] and gc.isenabled()
