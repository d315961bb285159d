"""Output folders: one writer at a time, and nothing is replaced there but what prune2vec wrote itself.

A folder that was written as a whole, or file by file, holds a hidden record of its files with their sizes and digests.
Only what is in that record, and still as it was written, is ever replaced or removed; all else is the user's.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from prune2vec.errors import CheckpointError, ConfigError, DataError
from prune2vec.files import explained_os_errors, fingerprint, read_json, sync_tree, write_json
from prune2vec.progress import say

RECORD = ".prune2vec-files.json"
VECTORS = "_manifest.json"
"""The manifest of a folder of vectors, which has no such record: it grows part by part."""
# What a folder may hold, as its record says it.
COMPARISON, CONVERSION, ENCODER, EXPORT = "a comparison", "a converted model", "an encoder", "an export"
RUN, TEXTS, TAUGHT = "a run", "mined texts", "a teacher's vectors"
_FORMAT = "prune2vec.files/1"
# What a file system without locks answers.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
_PARTIAL = re.compile(r"\.(?P<name>.+)\.partial-(?P<old>old-)?\d+")
_HELD: set[tuple[int, Path]] = set()


def check_ours(target: Path, kind: str) -> None:
    """Refuse a folder that may not be replaced as a whole by something of a kind; long work calls this before it starts.

    Raises:
        CheckpointError: As ``check_kind``; or one is in the folder; or it holds a file that prune2vec did not write there, or
            that was changed since. The first one is named.
    """
    own = OwnFolder(target, kind, check_kind(target, kind))
    if not target.exists():
        return
    if Path.cwd().is_relative_to(target.resolve()):
        raise CheckpointError(f"cannot write {target}: you are in this folder, which would be replaced; name a new folder")
    with explained_os_errors(target):
        own.check(*(path.relative_to(target).as_posix() for path in sorted(target.rglob("*")) if path != target / RECORD))


def check_kind(target: Path, kind: str) -> dict[str, Any]:
    """Return the recorded files of a folder that is missing, empty or our own of that kind; else a ``CheckpointError``."""
    with explained_os_errors(target):
        if not target.exists():
            return {}
        if not target.is_dir():
            raise CheckpointError(f"cannot write {target}: a file of that name is there; give the name of a folder")
        # A call that was killed before its first record was whole has written nothing else.
        found = min((path.name for path in target.iterdir() if _partial_of(path, RECORD) is None), default=None)
    wrote, files = recorded(target)
    if found is None or wrote == kind:
        return files
    reason = f"holds {wrote}, not {kind}" if wrote else f"holds {found}, and no record that prune2vec wrote it ({RECORD})"
    if not wrote and os.path.lexists(target / RECORD):
        reason = f"holds a record of its files that this version cannot read ({RECORD})"
    raise CheckpointError(f"cannot write {target}: it {reason}; name a new folder, or move this one away")


def changed_files(folder: Path, *, suffix: str) -> list[str]:
    """Return the files with this ending that are no longer as prune2vec wrote them there; none in a folder of others."""
    _, files = recorded(folder)
    return [
        name
        for name, written in sorted(files.items())
        if name.endswith(suffix) and not ((folder / name).is_file() and fingerprint(folder / name) == written)
    ]


def recorded(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return what was written into a folder, and its files by name; nothing where there is no record of ours."""
    try:
        value = read_json(folder / RECORD)
        if value["format"] == _FORMAT:
            return str(value["kind"]), dict(value["files"])
    except (DataError, KeyError, TypeError, ValueError):
        pass
    return "", {}


def is_ours(folder: Path) -> bool:
    """Return whether prune2vec writes this folder: as a whole, file by file, or as vectors."""
    return any((folder / name).exists() for name in (RECORD, VECTORS))


def files_of_others(folder: Path) -> list[Path]:
    """Return the files below a folder, in the order of their paths, but those in folders inside that prune2vec writes."""
    ours = {path.parent for name in (RECORD, VECTORS) for path in folder.rglob(name)} - {folder}
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and ours.isdisjoint(path.parents)]


@contextmanager
def locked(target: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold ``target``, a folder or a file to be written, for this call: ``.NAME.lock`` beside it, removed at the end.

    With ``wait`` it is waited for, which is said, and not refused. The operating system drops the lock with its process, so a
    file that a killed one left is simply taken over. On a file system without locks the file itself is the lock. Folders above
    ``target`` are made, and removed again if they stay empty.

    Raises:
        ConfigError: It is held already, by another process or by this one.
        CheckpointError: The folder above cannot be written.
    """
    with explained_os_errors(target):
        place = target.resolve()
        path = place.parent / f".{place.name}.lock"
        made = [above for above in place.parents if not above.exists()]
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquired(path, target, wait=wait)
    held = (threading.get_ident(), place)
    _HELD.add(held)
    try:
        clear_partials(place)
        yield
    finally:
        _HELD.discard(held)
        # Removed while it is held: who has opened it before sees afterwards that it is no longer there.
        with suppress(OSError):
            path.unlink()
        lock.release()
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _acquired(path: Path, target: Path, *, wait: bool, timeout: float = 0) -> BaseFileLock:
    # filelock takes a place where nothing can be written for one that is held.
    path.touch()
    try:
        try:
            lock = FileLock(path).acquire(timeout=timeout).lock
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            path.unlink(missing_ok=True)
            lock = SoftFileLock(path).acquire(timeout=timeout).lock
    except Timeout as error:
        holder = ""
        with suppress(OSError):
            holder = path.read_text(encoding="ascii").strip()
        holder = f" (process {holder})" if holder else ""
        if wait:
            say(f"{target} is in use by another run{holder}; waiting for it")
            return _acquired(path, target, wait=True, timeout=-1)
        raise ConfigError(f"{target} is in use by another run{holder}; wait for it or stop it, or write elsewhere") from error
    with suppress(OSError):
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    return lock


def clear_partials(path: Path) -> None:
    """Remove what killed calls left of ``path``; only for who holds the lock under which all write it.

    A folder that a killed call had moved aside, to put its own in place, is put back.
    """
    for stale in path.parent.glob(".*.partial-*"):
        match = _partial_of(stale, path.name)
        if match is None:
            continue
        if match["old"] and not path.exists() and (stale / RECORD).is_file():
            stale.rename(path)
        else:
            _remove(stale)


def _partial_of(stale: Path, name: str) -> re.Match[str] | None:
    """Return how a path is named if a call has left it of something called ``name``, half-written or moved aside; else None."""
    match = _PARTIAL.fullmatch(stale.name)
    return match if match is not None and match["name"] == name else None


def clear_all_partials(folder: Path) -> None:
    """Remove what killed calls left half-written at any depth below a folder that is held."""
    for stale in list(folder.glob("**/.*.partial-*")):
        if _PARTIAL.fullmatch(stale.name):
            _remove(stale)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def staged_folder(target: Path, kind: str) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends without an error.

    ``target`` is held meanwhile, unless the caller holds it. A killed process leaves only hidden ``.NAME.partial-PID``
    folders and its lock, which the next call for the same target removes. An earlier folder is replaced as a whole.

    Raises:
        ConfigError: Another call writes it.
        CheckpointError: The folder cannot be written, or may not be replaced.
    """
    with explained_os_errors(target):
        # So that a link keeps pointing where it does, and ".." is no name.
        place = target.resolve()
    lock = nullcontext() if (threading.get_ident(), place) in _HELD else locked(target)
    with lock, explained_os_errors(target):
        check_ours(target, kind)
        stage = place.parent / f".{place.name}.partial-{os.getpid()}"
        stage.mkdir()
        try:
            yield stage
            written = [path for path in sorted(stage.rglob("*")) if path.is_file()]
            OwnFolder(stage, kind, {path.relative_to(stage).as_posix(): fingerprint(path) for path in written}).save()
            # Libraries write weights readable by the user alone, and a server's user must read them: as our own file is.
            mode = stat.S_IMODE((stage / RECORD).stat().st_mode)
            for path in written:
                path.chmod(mode)
            sync_tree(stage)
            # Something may have been put there during long work.
            check_ours(target, kind)
            old = place.parent / f".{place.name}.partial-old-{os.getpid()}"
            if place.exists():
                place.rename(old)
            stage.rename(place)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def remove_folder(target: Path) -> None:
    """Remove a folder that ``staged_folder`` wrote, of any kind, if it is there and ``check_ours`` allows it."""
    check_ours(target, recorded(target)[0] or "what prune2vec wrote")
    if target.exists():
        shutil.rmtree(target)


@dataclass
class OwnFolder:
    """A folder that is written file by file, beside which others' files may lie.

    ``files`` is what was written: name, relative to the folder, to size and digest; None while it is being written.
    """

    folder: Path
    kind: str
    files: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def writing(self, *names: str) -> Iterator[None]:
        """Let the block write these files, as ``check`` allows, and note what it wrote."""
        self.check(*names)
        self.files |= dict.fromkeys(names)
        self.save()
        try:
            yield
        finally:
            for name in names:
                self.files.pop(name)
                if (self.folder / name).is_file():
                    self.files[name] = fingerprint(self.folder / name)
            self.save()

    def check(self, *names: str) -> None:
        """Refuse, with a ``CheckpointError``, a file that is there and is not ours, or was changed since we wrote it."""
        for name in names:
            path, ours = self.folder / name, name in self.files
            # A folder has a record of its own.
            if not os.path.lexists(path) or (path.is_dir() and not path.is_symlink()):
                continue
            # A file without a digest was being written when the process was killed.
            if not ours or (self.files[name] is not None and not (path.is_file() and fingerprint(path) == self.files[name])):
                reason = "was changed since prune2vec wrote it" if ours else "is not prune2vec's"
                raise CheckpointError(f"{path} {reason} and would be lost; move it away, or name another output")

    def remove(self, *names: str) -> None:
        """Remove files that we wrote, as ``check`` allows."""
        self.check(*names)
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
            if name in self.files:
                del self.files[name]
                self.save()

    def save(self) -> None:
        """Write the record."""
        write_json(self.folder / RECORD, {"format": _FORMAT, "kind": self.kind, "files": self.files})


@contextmanager
def own_folder(target: Path, kind: str) -> Iterator[OwnFolder]:
    """Hold a new or empty folder, or one of the same kind of an earlier call, to write files into it.

    If the block leaves no file in it, the folder is left as it was found.

    Raises:
        ConfigError: Another call writes it.
        CheckpointError: It holds something else, or cannot be written.
    """
    with locked(target):
        own, there = OwnFolder(target, kind, check_kind(target, kind)), target.is_dir()
        clear_partials(target / RECORD)
        try:
            own.save()
            yield own
        finally:
            if target.is_dir() and {path.name for path in target.iterdir()} <= {RECORD}:
                (target / RECORD).unlink(missing_ok=True)
                if not there:
                    target.rmdir()
