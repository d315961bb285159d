"""Paths in a recipe: relative to the recipe, absolute from then on, and looked for before any work starts."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prune2vec.errors import ConfigError
from prune2vec.experiments.yaml_file import Location
from prune2vec.paths import as_path, closest, looks_local

DOCSTRINGS = "docstrings"
_BUILT_IN_MODELS = ("smollm2",)
# Keys that hold a path, and those that hold a path or the name of something on the hub.
_PATHS: tuple[tuple[str, ...], ...] = (
    ("data", "mine", "source"),
    ("profile", "plain"),
    ("train", "dev"),
    ("train", "distil_from"),
    ("evaluate", "data"),
    ("evaluate", "mirror"),
    ("evaluate", "corpus"),
)
_NAMES: tuple[tuple[str, ...], ...] = (("model",), ("data", "train"), ("data", "dev"), ("data", "profile"))


def absolute_paths(values: Mapping[str, Any], *, base: Path, where: Callable[[Location], str]) -> dict[str, Any]:
    """Return a recipe's values with every local path made absolute.

    Args:
        values: A valid recipe as plain values.
        base: Folder that relative paths start from.
        where: Gives the place of a key, for messages.

    Raises:
        ConfigError: A local path is not there; the message names the closest one beside it.
    """
    changed = copy.deepcopy(dict(values))
    words = {DOCSTRINGS, *_BUILT_IN_MODELS, *(variant["name"] for variant in changed["variants"])}
    for location in (*_PATHS, *_NAMES):
        holder: Any = changed
        for part in location[:-1]:
            holder = (holder or {}).get(part)
        found = (holder or {}).get(location[-1])

        def absolute(name: str, location: tuple[str, ...] = location) -> str:
            return name if name in words else _absolute(name, base, place=where(location), only_local=location in _PATHS)

        if found:
            holder[location[-1]] = [absolute(name) for name in found] if isinstance(found, list) else absolute(found)
    return changed


def _absolute(name: str, base: Path, *, place: str, only_local: bool) -> str:
    try:
        path = Path(os.path.normpath(base / as_path(name)))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if os.path.exists(path):
        return str(path)
    if only_local or looks_local(name):
        hint = closest(path) or "; relative paths start from the recipe's folder"
        raise ConfigError(f"{place}: {path} does not exist{hint}")
    return name
