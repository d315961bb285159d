"""Writing so that nothing half-written is ever mistaken for whole, and digests that tell when an input has changed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from prune2vec.errors import CheckpointError, DataError, reason_of

_CHUNK = 1 << 20


@contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` while writing ``path`` into one line that says what to do.

    Raises:
        CheckpointError: In place of any ``OSError``, or of safetensors' own report of a failed write.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {_remedy(error, path)}") from error
    except SafetensorError as error:
        # It reports a failed write as its own error type, with the operating system's words inside.
        if "os error" not in str(error).lower():
            raise
        raise CheckpointError(f"cannot write {path}: {error}; free some space or write elsewhere") from error


def _remedy(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    at = str(error.filename) if error.filename is not None else str(path)
    if at != str(path) and ".partial-" not in at:
        reason = f"{reason}: {at}"
    if error.errno == errno.ENOSPC:
        return f"{reason}; free some space or write elsewhere, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; choose a folder that you may write to"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{reason} (a file where a folder is needed); choose another path"
    return reason


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, whole or not at all.

    Raises:
        CheckpointError: The file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` whole or not at all (temporary name, fsync, rename).

    Raises:
        CheckpointError: The file cannot be written.
    """
    with explained_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, whole or not at all.

    Raises:
        CheckpointError: The file cannot be written.
        ValueError: ``value`` holds NaN or an infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: The file is missing or is not JSON (NaN and infinities are not); the message has file and line.
    """

    def refuse(name: str) -> NoReturn:
        raise DataError(f"{path}: holds {name}, which is not JSON; make the file again")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        # Nested too deeply, or a number of thousands of digits.
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from error


def check_replaceable(target: Path, *, mark: str | None = None) -> None:
    """Refuse a target that no earlier call has written; long work calls this before it starts.

    Raises:
        CheckpointError: ``target`` is a file, the folder one is in (or one above it), or a folder that is neither empty
            nor has the file ``mark``.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise CheckpointError(f"cannot write {target}: a file of that name is there; give the name of a folder")
    if Path.cwd().is_relative_to(target.resolve()):
        raise CheckpointError(f"cannot write {target}: you are in this folder, which would be replaced; name a new folder")
    if mark is not None and not (target / mark).is_file() and any(target.iterdir()):
        raise CheckpointError(f"{target} exists and holds something else (no {mark}); name a new or an empty folder")


@contextmanager
def staged_folder(target: Path, *, mark: str | None = None) -> Iterator[Path]:
    """Yield an empty folder beside ``target`` that takes its place when the block ends without an error.

    A killed process leaves only a hidden ``.NAME.partial-PID`` folder, which the next call for the same target removes.

    Args:
        target: The folder to write. An earlier one is replaced as a whole.
        mark: A file that every earlier result holds; a folder with other things in it is not replaced.

    Raises:
        CheckpointError: The folder cannot be written, or something else is there.
    """
    check_replaceable(target, mark=mark)
    with explained_os_errors(target):
        # So that a link keeps pointing where it does, and ".." is no name.
        target = target.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
            shutil.rmtree(stale, ignore_errors=True)
        stage = target.parent / f".{target.name}.partial-{os.getpid()}"
        stage.mkdir()
        try:
            yield stage
            sync_tree(stage)
            _swap(stage, target)
        finally:
            shutil.rmtree(stage, ignore_errors=True)


def _swap(stage: Path, target: Path) -> None:
    if not target.exists():
        stage.rename(target)
        return
    old = target.parent / f".{target.name}.partial-old-{os.getpid()}"
    target.rename(old)
    stage.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder`` to the disk, so that a rename after it never outruns the data."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_tree(path: Path) -> str:
    """Return the SHA-256 over the names and contents of a file, or of every visible file below a folder.

    Raises:
        DataError: There is neither.
    """
    if path.is_file():
        return digest_file(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a file or a folder")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        if not any(part.startswith(".") for part in Path(name).parts):
            digest.update(f"{name}\0{digest_file(file)}\n".encode())
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
