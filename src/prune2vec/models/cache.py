"""The folder that keeps converted models: where it is, what is in it, and clearing it."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prune2vec.errors import DataError
from prune2vec.files import explained_os_errors, read_json
from prune2vec.outputs import CONVERSION, locked, recorded
from prune2vec.outputs import RECORD as FILES

RECORD = "conversion.json"
"""The file that is in every whole copy; it tells of the source."""
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
    for folder in _written():
        with suppress(DataError, KeyError, TypeError):
            source = str(read_json(folder / RECORD)["source"])
            size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
            made = datetime.fromtimestamp((folder / RECORD).stat().st_mtime, UTC)
            found.append(KeptCopy(folder=folder, source=source, size=size, made=made))
    return sorted(found, key=lambda copy: (copy.made, copy.folder))


def _written() -> list[Path]:
    """Return the folders that hold a converted model, or what a killed call of ``clear_cache`` left of one."""
    folders = [path.parent for path in cache_folder().glob(f"[!.]*/{FILES}")]
    return [folder for folder in folders if recorded(folder)[0] == CONVERSION]


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
        for folder in _written():
            # Our record goes first, so that a copy that is deleted in part is never used; FILES last, so that it is found again.
            for name in (RECORD, *recorded(folder)[1], FILES):
                (folder / Path(name).name).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        for left in cache.iterdir():
            if left.is_dir() and _HALF_WRITTEN.fullmatch(left.name):
                shutil.rmtree(left)
    return copies
