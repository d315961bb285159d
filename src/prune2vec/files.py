"""Writing so that nothing half-written is ever mistaken for whole, and digests that tell when an input has changed."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune2vec.errors import CheckpointError, DataError, Prune2vecError, reason_of

_CHUNK = 1 << 20
_WHOLE_BYTES = 256 << 20
_SAMPLES = 64


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector still while libraries are imported, or large files read: it would go through what all stays."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def explained_os_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` while writing ``path`` into a CheckpointError with what to do; one over a file elsewhere passes."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str):
            named = Path(error.filename).absolute()
            near = (named.is_relative_to(at.parent) or at.is_relative_to(named) for at in (path.absolute(), path.resolve()))
            if not any(near):
                raise
        raise CheckpointError(f"cannot write {path}: {_remedy(error, path)}") from error
    except Prune2vecError:
        raise
    except Exception as error:
        # Libraries in Rust (safetensors, tokenizers) report a failed write as errors of their own, with the operating
        # system's words inside.
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise CheckpointError(f"cannot write {path}: {_remedy(OSError(int(number[1]), reason_of(error)), path)}") from error


def _remedy(error: OSError, path: Path) -> str:
    reason = error.strerror or str(error)
    at = str(error.filename) if error.filename is not None else str(path)
    if at != str(path) and ".partial-" not in at:
        reason = f"{reason}: {at}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}; free some space or write elsewhere, then run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{reason}; choose a folder that you may write to"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{reason} (a file where a folder is needed); choose another path"
    return reason


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in UTF-8, as ``write_bytes`` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` whole or not at all (temporary name, fsync, rename); a ``CheckpointError`` if that fails."""
    with explained_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of the thread, not the process: several may write one file at once, and the last one's stays, whole.
        partial = path.with_name(f".{path.name}.partial-{threading.get_native_id()}")
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as ``json_text``, as ``write_bytes`` does."""
    write_bytes(path, json_text(value).encode())


def json_text(value: Any) -> str:
    """Return ``value`` as readable JSON; NaN and infinities, which it does not have, are a ``ValueError``."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file; if it is missing or not JSON (NaN, infinities, 1e999), a ``DataError`` has file and line."""

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise DataError(f"{path}: holds {number[:60]}, which is not JSON; make the file again")
        return float(number)

    try:
        with no_collection():
            return json.loads(path.read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); expected a JSON file") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        # Nested too deeply, or a number of thousands of digits.
        raise DataError(f"{path}: cannot be read: {reason_of(error)}") from error


def sync_tree(folder: Path) -> None:
    """Flush every file below ``folder`` to the disk, so that a rename after it never outruns the data."""
    for path in folder.rglob("*"):
        if path.is_file():
            # Windows flushes no file that is open for reading alone.
            with path.open("r+b" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> list[Any]:
    """Return a file's size in bytes and a SHA-256 of its contents, of a file over 256 MB that of 64 spread samples.

    Gigabytes of weights would be read again at every start; evenly spaced samples with both ends notice a change of the
    whole file, a truncated end and holes of more than a few megabytes.
    """
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return [size, digest_file(path)]
    digest = hashlib.sha256()
    step = (size - _CHUNK) / (_SAMPLES - 1)
    with path.open("rb") as stream:
        for index in range(_SAMPLES):
            stream.seek(round(index * step))
            digest.update(stream.read(_CHUNK))
    return [size, digest.hexdigest()]


def digest_tree(path: Path, *, without: Container[str] = ()) -> str:
    """Return the SHA-256 over the names and contents of a file, or of every visible file below a folder ``without`` these names."""
    if path.is_file():
        return digest_file(path)
    if not path.is_dir():
        raise DataError(f"{path} does not exist; expected a file or a folder")
    digest = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        name = file.relative_to(path).as_posix()
        if name not in without and not any(part.startswith(".") for part in Path(name).parts):
            digest.update(f"{name}\0{digest_file(file)}\n".encode())
    return digest.hexdigest()


def digest_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
