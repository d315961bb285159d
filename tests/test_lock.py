from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.lock import folder_lock

HOLDER = """
import sys, time
from pathlib import Path
from prune2vec.lock import folder_lock
with folder_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"in use by another run \(process {holder.pid}\)"), folder_lock(tmp_path):
            pass
        holder.kill()
        holder.wait()
        # The file is still there; its process is not.
        assert (tmp_path / ".lock").exists()
        with folder_lock(tmp_path):
            pass


def test_lock_makes_the_folder_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with folder_lock(tmp_path / "new" / "run"):
            assert (tmp_path / "new" / "run").is_dir()


def test_two_in_one_process_collide_too(tmp_path: Path) -> None:
    with folder_lock(tmp_path), pytest.raises(ConfigError), folder_lock(tmp_path):
        pass


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"), folder_lock(tmp_path / "file" / "run"):
        pass


@pytest.mark.parametrize(("code", "held"), [(errno.ENOLCK, True), (errno.EOPNOTSUPP, True), (errno.EIO, False)])
def test_file_systems_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, held: bool) -> None:
    def flock(descriptor: int, how: int) -> None:
        raise OSError(code, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    try:
        with folder_lock(tmp_path):
            assert held
    except OSError as error:
        assert not held
        assert error.errno == code
