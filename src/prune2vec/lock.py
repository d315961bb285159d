"""One writer per folder at a time."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune2vec.errors import ConfigError
from prune2vec.files import explained_os_errors

LOCK = ".lock"
# What a file system without locks answers; two writers are then for the user to avoid.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def folder_lock(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``folder`` (made if missing) for this process; ``wait`` until another has left it instead of refusing.

    The operating system drops the lock with its process, so a killed run leaves nothing that must be cleared away: the
    file stays, and the next run simply takes it over. On a file system without locks nothing is held.

    Raises:
        ConfigError: Another live process holds the folder.
        CheckpointError: The folder cannot be written.
    """
    path = folder / LOCK
    with explained_os_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _claim(descriptor, folder, wait=wait)
        yield
    finally:
        os.close(descriptor)


def _claim(descriptor: int, folder: Path, *, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        message = f"{folder} is in use by another run (process {holder}); wait for it or stop it, or write to another folder"
        raise ConfigError(message) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
