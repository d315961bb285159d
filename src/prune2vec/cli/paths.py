"""Types of command-line values that are paths: looked at before any work starts, with the close match for a typo."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import click

from prune2vec.errors import CheckpointError, DataError

_DATA_SUFFIXES = (".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".yaml", ".yml", ".gguf", ".safetensors")


def must_exist(path: Path) -> Path:
    """Return ``path`` if there is such a file or folder.

    Raises:
        DataError: There is none; the message names the closest name in the same folder.
    """
    if path.exists():
        return path
    parent = path.parent
    while not parent.exists():
        path, parent = parent, parent.parent
    if not parent.is_dir():
        raise DataError(f"{path} does not exist: {parent} is a file")
    names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    hint = f"; did you mean {str(parent / close[0])!r}?" if close else f" (looked in {parent.absolute()})"
    raise DataError(f"{path} does not exist{hint}")


def looks_local(name: str) -> bool:
    """Return whether ``name`` can only be a path, not a hub id or a built-in name."""
    path = Path(name)
    return (
        name.startswith((".", "~", os.sep))
        or name.endswith(("/", os.sep))
        or len(path.parts) > 2
        or path.suffix.lower() in _DATA_SUFFIXES
        or path.exists()
    )


def check_target(path: Path, *, folder: bool) -> Path:
    """Return ``path`` if a file (or folder) could be written there.

    Raises:
        CheckpointError: Something of the other kind is there, or the folder above it cannot be written to.
    """
    if path.exists() and path.is_dir() != folder:
        kind, found = ("folder", "file") if folder else ("file", "folder")
        raise CheckpointError(f"cannot write {path}: a {found} of that name is there; give the name of a {kind}")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise CheckpointError(f"cannot write {path}: {parent} is a file, not a folder")
    if not os.access(parent, os.W_OK):
        raise CheckpointError(f"cannot write {path}: no permission in {parent}; choose a folder that you may write to")
    return path


class Existing(click.ParamType[Any]):
    """A file or folder that must be there."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Turn the word into a path that exists."""
        return must_exist(Path(value).expanduser())


class Source(click.ParamType[Any]):
    """A name that may be a local path or something known elsewhere (a hub id, a built-in name); paths must be there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, checked if it can only be a path."""
        name = str(value)
        return str(must_exist(Path(name).expanduser())) if looks_local(name) else name


class Target(click.ParamType[Any]):
    """A file or folder to write."""

    def __init__(self, *, folder: bool) -> None:
        self._folder = folder
        self.name = "folder" if folder else "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Turn the word into a path that can be written."""
        return check_target(Path(value).expanduser(), folder=self._folder)
