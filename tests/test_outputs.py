from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prune2vec import files
from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.outputs import RECORD, check_ours, locked, own_folder, remove_folder, staged_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != RECORD)


# Folders that appear whole or not at all


def test_a_folder_appears_at_the_end_and_not_before(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with staged_folder(target, "a test") as stage:
        (stage / "a").write_text("1")
        assert not target.exists() and stage.parent == target.parent
    assert names(target) == ["a"] and names(target.parent) == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_files_are_readable_as_the_user_has_it(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with staged_folder(tmp_path / "out", "an encoder") as stage:
            (stage / "deep").mkdir()
            (stage / "deep" / "weights").write_text("x")
            (stage / "deep" / "weights").chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "deep" / "weights").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_earlier_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with staged_folder(tmp_path / "out", "a test") as stage:
            (stage / name).write_text(name)
    assert names(tmp_path / "out") == ["second"] and names(tmp_path) == ["out"]


def test_an_error_leaves_the_earlier_folder(tmp_path: Path) -> None:
    with staged_folder(tmp_path / "out", "a test") as stage:
        (stage / "first").write_text("1")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", "a test") as stage:
        (stage / "second").write_text("2")
        raise RuntimeError
    assert names(tmp_path / "out") == ["first"] and names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["out", "run[1]", "a*b"])
def test_leftovers_of_killed_calls_for_this_target_alone_are_removed(name: str, tmp_path: Path) -> None:
    for stale in (f".{name}.partial-123", f".{name}.partial-old-123", f".{name}.partial-{os.getpid()}", ".else.partial-1"):
        (tmp_path / stale / "deep").mkdir(parents=True)
    with staged_folder(tmp_path / name, "a test") as stage:
        assert names(stage) == []
    assert names(tmp_path) == sorted([".else.partial-1", name])


def test_a_file_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="a file of that name is there"), staged_folder(tmp_path / "out", "a test"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "outer", "a")
    (tmp_path / "outer" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "outer" / "empty")
    for target in (Path("."), Path(".."), tmp_path / "outer"):
        with pytest.raises(CheckpointError, match="you are in this folder"), staged_folder(target, "a test"):
            pass
    assert names(tmp_path / "outer") == ["a", "empty"]


def written(folder: Path, *names: str) -> Path:
    with staged_folder(folder, "a test") as stage:
        for name in names:
            (stage / name).parent.mkdir(exist_ok=True)
            (stage / name).write_text(name)
    return folder


def added(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def changed(folder: Path) -> None:
    # Of the same size, and with the old time.
    before = (folder / "b" / "weights").stat()
    (folder / "b" / "weights").write_text("b/WEIGHTS")
    os.utime(folder / "b" / "weights", ns=(before.st_atime_ns, before.st_mtime_ns))


def hidden(folder: Path) -> None:
    (folder / "b" / ".git").mkdir()
    (folder / "b" / ".git" / "HEAD").write_text("ref")


def dangling(folder: Path) -> None:
    (folder / "link").symlink_to("/nowhere")


def folder_for_file(folder: Path) -> None:
    (folder / "a").unlink()
    (folder / "a").mkdir()
    (folder / "a" / "mine").write_text("mine")


def unrecorded(folder: Path) -> None:
    (folder / RECORD).unlink()


def anothers(folder: Path) -> None:
    (folder / RECORD).write_text(json.dumps({"format": "other", "files": {"a": None}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (added, "out/notes.txt is not prune2vec's and would be lost"),
        (changed, "out/b/weights was changed since prune2vec wrote it"),
        (hidden, "out/b/.git/HEAD is not prune2vec's"),
        (dangling, "out/link is not prune2vec's"),
        (folder_for_file, "out/a/mine is not prune2vec's"),
        (unrecorded, "it holds a, and no record that prune2vec wrote it"),
        (anothers, "it holds a record of its files that this version cannot read"),
    ],
)
def test_only_what_we_wrote_is_replaced(change: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    out = written(tmp_path / "out", "a", "b/weights")
    change(out)
    before = sorted((str(path), path.is_file() and path.read_text()) for path in out.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as refused, staged_folder(out, "a test"):
        pytest.fail("work begins")
    assert "\n" not in str(refused.value)
    with pytest.raises(CheckpointError, match=message):
        remove_folder(out)
    assert sorted((str(path), path.is_file() and path.read_text()) for path in out.rglob("*")) == before
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_gone_or_empty_is_no_hindrance(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "a", "b/weights")
    (out / "a").unlink()
    (out / "empty").mkdir()
    assert names(written(out, "c")) == ["c"]


def test_another_kind_is_not_replaced(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "a")
    with (
        pytest.raises(CheckpointError, match="it holds a test, not an encoder; name a new folder"),
        staged_folder(out, "an encoder"),
    ):
        pass


def test_what_comes_while_work_is_done_is_kept(tmp_path: Path) -> None:
    out = written(tmp_path / "out", "a")
    with pytest.raises(CheckpointError, match=r"notes\.txt is not"), staged_folder(out, "a test") as stage:
        (stage / "b").write_text("b")
        added(out)
    assert names(out) == ["a", "notes.txt"] and os.listdir(tmp_path) == ["out"]


def test_large_files_are_known_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WHOLE_BYTES", 3 << 20)
    with staged_folder(tmp_path / "out", "a test") as stage:
        (stage / "weights").write_bytes(bytes(4 << 20))
    check_ours(tmp_path / "out", "a test")
    with (tmp_path / "out" / "weights").open("r+b") as file:
        file.seek(2 << 20)
        file.write(b"x")
    with pytest.raises(CheckpointError, match="weights was changed"):
        check_ours(tmp_path / "out", "a test")


def test_what_was_moved_aside_when_the_process_was_killed_is_put_back(tmp_path: Path) -> None:
    written(tmp_path / "out", "a").rename(tmp_path / ".out.partial-old-123")
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out", "a test"):
        raise RuntimeError
    assert names(tmp_path / "out") == ["a"] and os.listdir(tmp_path) == ["out"]


def test_hidden_names_that_are_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-notes").write_text("mine")
    written(tmp_path / "out", "a")
    assert (tmp_path / ".out.partial-notes").exists()


# Folders that are written file by file


def test_files_beside_ours_stay_and_ours_are_known(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with own_folder(tmp_path / "out", "a test") as own, own.writing("a"):
            (tmp_path / "out" / "a").write_text(text)
        (tmp_path / "out" / "notes.txt").write_text("mine")
    assert names(tmp_path / "out") == ["a", "notes.txt"] and (tmp_path / "out" / "a").read_text() == "second"
    for name in ("a", "notes.txt"):
        (tmp_path / "out" / name).write_text("mine")
        with pytest.raises(CheckpointError, match=name), own_folder(tmp_path / "out", "a test") as own, own.writing(name):
            pytest.fail("it is written")
        with pytest.raises(CheckpointError, match=name), own_folder(tmp_path / "out", "a test") as own:
            own.remove(name)
        assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_file_that_was_being_written_by_a_killed_call_is_ours(tmp_path: Path) -> None:
    with own_folder(tmp_path, "a test") as own:
        own.files["a"] = None
        own.save()
        (tmp_path / "a").write_text("half")
    with own_folder(tmp_path, "a test") as own, own.writing("a"):
        (tmp_path / "a").write_text("whole")
    assert own.files["a"] == files.fingerprint(tmp_path / "a")


def test_a_folder_whose_first_record_was_cut_short_is_new(tmp_path: Path) -> None:
    partial = tmp_path / "out" / f".{RECORD}.partial-123"
    partial.parent.mkdir()
    partial.write_text("{")
    with own_folder(tmp_path / "out", "a test") as own, own.writing("a"):
        (tmp_path / "out" / "a").write_text("1")
    assert not partial.exists() and names(tmp_path / "out") == ["a"]
    # Beside files of others it stays theirs, and is left as it is.
    (tmp_path / "theirs").mkdir()
    for name in ("notes.txt", partial.name):
        (tmp_path / "theirs" / name).write_text("{")
    with pytest.raises(CheckpointError, match=r"it holds notes\.txt"), own_folder(tmp_path / "theirs", "a test"):
        pass
    assert names(tmp_path / "theirs") == [partial.name, "notes.txt"]


def test_only_a_new_empty_or_own_folder_is_written_into(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with own_folder(tmp_path / "out", "a test"), own_folder(tmp_path / "deep" / "new", "a test"):
        pass
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [], "as they were: nothing was written"
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match=r"it holds notes\.txt"), own_folder(tmp_path / "out", "a test"):
        pass
    assert os.listdir(tmp_path / "out") == ["notes.txt"]


def test_a_link_keeps_pointing_to_where_the_data_is(tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    with staged_folder(tmp_path / "link", "a test") as stage:
        (stage / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert (
        names(tmp_path / "disk") == ["real"]
        and names(tmp_path / "disk" / "real") == ["a"]
        and names(tmp_path) == ["disk", "link"]
    )


KILLED = """
import sys, time
from pathlib import Path
from prune2vec.outputs import staged_folder
print("ready", flush=True)
number = 0
while True:
    number += 1
    with staged_folder(Path(sys.argv[1]), "a test") as stage:
        for part in range(20):
            (stage / f"part-{part}").write_text(str(number))
            time.sleep(0.0002)
"""


@pytest.mark.parametrize("delay", [0.004, 0.011, 0.017, 0.03, 0.05, 0.08])
def test_sigkill_leaves_no_target_or_a_whole_one(delay: float, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    if target.exists():
        contents = [(target / f"part-{part}").read_text() for part in range(20)]
        assert len(set(contents)) == 1 and len(names(target)) == 20
    assert all(name in ("out", ".out.lock") or name.startswith(".out.partial-") for name in names(tmp_path))
    with staged_folder(target, "a test") as stage:
        (stage / "again").write_text("x")
    assert names(tmp_path) == ["out"] and names(target) == ["again"]


EVERY_STEP = """
import itertools, os, shutil, signal, sys
from pathlib import Path
from prune2vec.outputs import staged_folder

target = Path(sys.argv[1])
NAMES = ["part-0", "part-1"]


def fill(folder, text):
    for name in NAMES:
        (folder / name).write_text(text)


def child(kill_at):
    calls = itertools.count(1)

    def watch(frame, event, arg):
        # Only calls into the operating system change what is on the disk.
        if event == "c_call" and arg.__module__ in ("posix", "_io") and next(calls) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)
    with staged_folder(target, "a test") as stage:
        fill(stage, "new")
    os._exit(0)


def found():
    if not target.exists():
        return "none"
    texts = {(target / name).read_text() if (target / name).exists() else "" for name in NAMES}
    # The record is one more.
    return texts.pop() if len(texts) == 1 and len(list(target.iterdir())) == len(NAMES) + 1 else "half"


seen = []
for kill_at in itertools.count(1):
    shutil.rmtree(target.parent)
    target.mkdir(parents=True)
    if sys.argv[2] == "fresh":
        target.rmdir()
    else:
        with staged_folder(target, "a test") as stage:
            fill(stage, "old")
    pid = os.fork()
    if pid == 0:
        child(kill_at)
    _, status = os.waitpid(pid, 0)
    seen.append(found())
    with staged_folder(target, "a test") as stage:
        fill(stage, "again")
    assert found() == "again" and os.listdir(target.parent) == [target.name], os.listdir(target.parent)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
print(*seen)
"""


@pytest.mark.parametrize("before", ["fresh", "old"])
def test_sigkill_before_every_system_call_leaves_none_the_old_or_the_new(before: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    target.mkdir(parents=True)
    command = [sys.executable, "-c", EVERY_STEP, str(target), before]
    seen = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(seen) > 20 and seen[-1] == "new"
    start = "none" if before == "fresh" else "old"
    # First what was there before, perhaps nothing for a moment, then the new one: never half of anything.
    order = [state for place, state in enumerate(seen) if place == 0 or state != seen[place - 1]]
    assert order in ([start, "new"], [start, "none", "new"])


# One writer


HOLDER = """
import sys, time
from pathlib import Path
from prune2vec.outputs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(out)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by another run \(process {holder.pid}\)"), locked(out):
            pass
        holder.kill()
        holder.wait()
        # The file is still there; its process is not.
        assert os.listdir(tmp_path) == [".out.lock"]
        with locked(out):
            pass
    assert os.listdir(tmp_path) == []


def test_lock_makes_the_folders_above_and_leaves_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            assert os.listdir(tmp_path / "new") == [".run.lock"]
    assert os.listdir(tmp_path) == []


def test_two_in_one_process_collide_too(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with locked(out), pytest.raises(ConfigError), locked(out):
        pass
    with own_folder(out, "a test"), pytest.raises(ConfigError), own_folder(out, "a test"):
        pass


def test_who_holds_a_folder_may_put_another_in_its_place_and_no_other_thread(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        with pytest.raises(ConfigError) as caught, staged_folder(tmp_path / "out", "a test"):
            pass
        refused.append(str(caught.value))

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        written(tmp_path / "out", "a")
    assert f"process {os.getpid()}" in refused[0] and os.listdir(tmp_path) == ["out"]


def test_who_waits_says_for_whom_and_then_holds_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    def other() -> None:
        with locked(tmp_path / "out", wait=True):
            said.append("held")

    thread = threading.Thread(target=other)
    with locked(tmp_path / "out"):
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() and not said
    thread.join(30)
    assert said == ["held"] and not os.listdir(tmp_path)
    assert f"out is in use by another run (process {os.getpid()}); waiting for it\n" in capfd.readouterr().err
    with locked(tmp_path / "out", wait=True):
        assert not capfd.readouterr().err


COUNT = """
import sys, time
from pathlib import Path
from prune2vec.errors import ConfigError
from prune2vec.outputs import locked
target, count = Path(sys.argv[1]), Path(sys.argv[2])
done = 0
while done < 150:
    try:
        with locked(target):
            number = int(count.read_text())
            count.write_text(str(number + 1))
            done += 1
    except ConfigError:
        pass
"""


def test_no_two_hold_it_at_once_although_the_file_is_removed_each_time(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    words = [sys.executable, "-c", COUNT, str(tmp_path / "out"), str(tmp_path / "count")]
    each = [subprocess.Popen(words) for _ in range(3)]
    assert [one.wait() for one in each] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "450"
    assert os.listdir(tmp_path) == ["count"]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"), locked(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(("code", "held"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, held: bool) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr("fcntl.flock", flock)
    try:
        with locked(tmp_path / "out"):
            assert held
    except CheckpointError as error:
        assert not held
        assert "no locks" in str(error)
