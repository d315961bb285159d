"""Types of command-line values that are paths."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from prune2vec.errors import ConfigError
from prune2vec.paths import as_path, check_target, looks_local, must_exist


class _Path(click.ParamType[Any]):
    """A path that a file system takes; what no path can be is wrong usage."""

    name = "path"
    to_write = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Turn the word into a path, or refuse it."""
        try:
            path = as_path(value, to_write=self.to_write)
        except ConfigError as error:
            self.fail(str(error), param, ctx)
        return self.checked(path, str(value))

    def checked(self, path: Path, word: str) -> Any:
        """Return the value of a well-formed path."""
        raise NotImplementedError


class ExistingPath(_Path):
    """A file or folder that must be there."""

    def checked(self, path: Path, word: str) -> Path:
        """Return the path if it exists."""
        return must_exist(path)


class SourceName(_Path):
    """A name that may be a local path or something known elsewhere (a hub id, a built-in name); paths must be there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def checked(self, path: Path, word: str) -> str:
        """Return the name, checked if it can only be a path."""
        return str(must_exist(path)) if looks_local(word) or os.path.exists(path) else word


class OutputPath(_Path):
    """A file or folder to write."""

    to_write = True

    def __init__(self, *, folder: bool) -> None:
        self._folder = folder
        self.name = "folder" if folder else "file"

    def checked(self, path: Path, word: str) -> Path:
        """Return the path if it can be written."""
        return check_target(path, folder=self._folder)
