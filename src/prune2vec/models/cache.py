"""The folder that keeps converted models: where it is, what is in it, and clearing it."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError
from prune2vec.files import explained_os_errors, read_json
from prune2vec.outputs import RECORD as FILES
from prune2vec.outputs import locked

RECORD = "conversion.json"
"""The file that is in every copy; it tells of the source and lists the copy's files."""
# What copies hold that were made before the record listed it.
_FIRST_FILES = (
    RECORD, "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
_COPY = re.compile(r"[^.].*-[0-9a-f]{16}-v\d+")
_HALF_WRITTEN = re.compile(r"\..+-[0-9a-f]{16}-v\d+\.partial-(old-)?\d+")


@dataclass(frozen=True, kw_only=True)
class KeptCopy:
    """A converted model in the cache: the file it was made from, its size in bytes, and when it was made, in UTC."""

    folder: Path
    source: str
    size: int
    made: datetime


def cache_folder() -> Path:
    """Return where converted models are kept: ``$PRUNE2VEC_CACHE``, else ``prune2vec`` in the user's cache folder."""
    chosen = os.environ.get("PRUNE2VEC_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "prune2vec"


def kept_copies() -> list[KeptCopy]:
    """Return the converted models in the cache, the oldest first."""
    found = []
    for path in cache_folder().glob(f"*/{RECORD}"):
        record = _record(path)
        if record is not None and not path.parent.name.startswith("."):
            size = sum(file.stat().st_size for file in path.parent.iterdir() if file.is_file())
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            found.append(KeptCopy(folder=path.parent, source=str(record["source"]), size=size, made=made))
    return sorted(found, key=lambda copy: (copy.made, copy.folder))


def all_copies() -> Path:
    """Return what is held while a copy is made or deleted."""
    return cache_folder() / "copies"


def clear_cache() -> list[KeptCopy]:
    """Delete the converted models in the cache, and what killed conversions left there; nothing else is touched.

    Returns:
        The copies that were deleted.

    Raises:
        CheckpointError: A file cannot be deleted.
        ConfigError: Another process is converting a model.
    """
    cache = cache_folder()
    if not cache.is_dir():
        return []
    with locked(all_copies()), explained_os_errors(cache):
        copies = kept_copies()
        half_cleared = [path.parent for path in cache.glob(f"*/{FILES}") if _COPY.fullmatch(path.parent.name)]
        for folder in dict.fromkeys([*(copy.folder for copy in copies), *half_cleared]):
            files = (_record(folder / RECORD) or {}).get("files")
            names = [str(name) for name in files] if isinstance(files, list) else _FIRST_FILES
            # Our record goes first, so that a copy that is deleted in part is never used; FILES last, so that it is found again.
            for name in sorted(names, key=lambda name: name != RECORD):
                (folder / Path(name).name).unlink(missing_ok=True)
            (folder / FILES).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        for left in cache.iterdir():
            if left.is_dir() and _HALF_WRITTEN.fullmatch(left.name):
                shutil.rmtree(left)
    return copies


def _record(path: Path) -> dict[str, Any] | None:
    """Return a copy's record, or None if the file is none of ours."""
    try:
        record = read_json(path)
    except DataError:
        return None
    return record if isinstance(record, dict) and {"source", "sha256"} <= set(record) else None
