"""Paths as users give them: looked at before any work starts, with the close match for a typo."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from prune2vec.errors import CheckpointError, ConfigError, DataError

_DATA_SUFFIXES = (".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".yaml", ".yml", ".gguf", ".safetensors")
_LONGEST_NAME, _LONGEST_PATH = 255, 4000
_ROOM = 55  # Bytes that a file's temporary name, or that of a file beside it, has more than its own.


def as_path(value: object, *, to_write: bool = False) -> Path:
    """Return what a user gave as a path, the home folder in place of ``~``; where one writes, some names get longer.

    Raises:
        ConfigError: It is something else, or no file system takes it.
    """
    text = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        raise ConfigError(f"expected a path, got {value!r}")
    try:
        path = Path(text).expanduser()
        names = [len(part.encode()) for part in path.parts]
    except (RuntimeError, UnicodeEncodeError) as error:
        raise ConfigError(f"{text!r} is no path: it {'names no home folder' if text[0] == '~' else 'is not UTF-8'}") from error
    # Only of the last name others are made.
    if to_write and names:
        names[-1] += _ROOM
    if "\0" in text:
        raise ConfigError(f"{text!r} is no path: it holds a NUL character")
    if max(names, default=0) > _LONGEST_NAME or sum(names) + len(names) > _LONGEST_PATH:
        limit = f"{_LONGEST_NAME - to_write * _ROOM} bytes a name and {_LONGEST_PATH} in all"
        raise ConfigError(
            f"{text[:40]}... is too long for a path ({max(names) - to_write * _ROOM} bytes a name); expected at most {limit}"
        )
    return path


def must_exist(path: Path) -> Path:
    """Return ``path`` if it exists; else a ``DataError`` names the closest name in the same folder."""
    if os.path.exists(path):
        return path
    parent = path.parent
    while not os.path.exists(parent):
        path, parent = parent, parent.parent
    if not parent.is_dir():
        raise DataError(f"{path} does not exist: {parent} is a file")
    raise DataError(f"{path} does not exist{closest(path) or f' (looked in {parent.absolute()})'}")


def closest(path: Path) -> str:
    """Return ``"; did you mean 'x'?"`` for the name beside ``path`` that is closest to it, or nothing."""
    names = [name for name in os.listdir(path.parent) if not name.startswith(".")] if os.path.isdir(path.parent) else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {str(path.parent / close[0])!r}?" if close else ""


def looks_local(name: str) -> bool:
    """Return whether ``name`` can only be a path: a hub id is NAME or OWNER/NAME, with no ending of a file.

    What stands behind an ``@`` is a revision, which may have any form.
    """
    name, _, _ = name.partition("@")
    return (
        name.startswith((".", "~", os.sep))
        or name.endswith(("/", os.sep))
        or len(Path(name).parts) > 2
        or name.lower().endswith(_DATA_SUFFIXES)
    )


def check_is_encoder(folder: str | Path) -> None:
    """Refuse, with a ``CheckpointError``, a path that is missing, an export or no encoder; a hub id passes."""
    path = Path(folder)
    if path.is_dir():
        if not (path / "modules.json").is_file():
            raise CheckpointError(f"{path} is not an encoder: it has no modules.json; make one with prune2vec prune")
        if (path / "export.json").is_file():
            raise CheckpointError(f"{path} is an export to another runtime; name the encoder that it was made of")
        return
    # A name without an owner is no id of the hub here.
    if path.exists() or "/" not in str(folder) or looks_local(str(folder)) or path.parent.is_dir():
        hint = "" if path.exists() else closest(path)
        hint = hint or "; expected a folder made by prune2vec prune or train"
        raise CheckpointError(f"no encoder at {folder}{hint}")


def check_outside(output: Path | str, encoder: Path | str) -> None:
    """Refuse to write into an encoder's folder, all of whose files count where it is asked whether it is still the same.

    Raises:
        ConfigError: The output lies in there.
    """
    if Path(encoder).is_dir() and Path(encoder).resolve() in Path(output).resolve().parents:
        raise ConfigError(f"{output} is inside {encoder}, and would be a change of it; name another output")


def check_target(path: Path, *, folder: bool) -> Path:
    """Return ``path`` if a file (or folder) could be written there.

    Raises:
        ConfigError: As ``as_path``.
        CheckpointError: Something of the other kind is there, or the folder above it cannot be written to.
    """
    path = as_path(path, to_write=True)
    if os.path.exists(path) and path.is_dir() != folder:
        kind, found = ("folder", "file") if folder else ("file", "folder")
        raise CheckpointError(f"cannot write {path}: a {found} of that name is there; give the name of a {kind}")
    parent = path.absolute().parent
    while not os.path.exists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise CheckpointError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise CheckpointError(f"cannot write {path}: no permission in {parent}; choose a folder that you may write to")
    return path
