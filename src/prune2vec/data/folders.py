"""Folders of texts: which files belong to which data set and split, by the names that the hub and its users give them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.data.rows import FORMATS, known_suffixes, suffix_of
from prune2vec.errors import ConfigError, DataError
from prune2vec.files import read_json
from prune2vec.outputs import files_of_others, is_ours
from prune2vec.progress import say

TRAIN = "train"
# The words by which the hub tells splits, and some more.
_SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("dev", "val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "heldout", "held-out", "held_out", "holdout"), "test"),
}
_BETWEEN = r"[-_. ]"
_SPLIT = re.compile(rf"(?:^|{_BETWEEN})({'|'.join(_SPLITS)})\d*(?={_BETWEEN}|$)", re.IGNORECASE)
# train-00000-of-00002, perhaps with a digest; part-00000 of Spark; 0000 as the hub's own conversion writes it.
_SHARD = re.compile(rf"{_BETWEEN}?\d+-of-\d+(?:-[0-9a-f]{{8,}})?$|^(?:part|shard|chunk|data){_BETWEEN}?\d+\b.*$|^0\d{{3,}}$")
# Names of folders and files that say nothing about what is in them.
_PLAIN = ("", "data", "default", "set", "split")
# A folder with retrieval data or with mined pairs has these beside the triplets.
_NOT_TRIPLETS = ("corpus", "queries", "qrels")
_SKIPPED = frozenset({"node_modules", "site-packages", "__pycache__", "venv"})
_DEPTH = 2
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of a folder: its data set, and its split (train, validation, test) where its name tells one, else empty."""

    path: Path
    dataset: str
    split: str


def choose_files(folder: Path, split: str = TRAIN) -> list[TextFile]:
    """Return the files of a folder that belong to a split, in the order of their names; says in one line what is left out.

    Files are those in the folder, or where there are none those in ``data``, in folders of configurations or of splits; what
    ``datasets.save_to_disk`` and the hub write is known. A name that tells no split counts as train.

    Args:
        folder: A folder of triplets.
        split: ``train``: never a validation or test file. Any other: files of that split; where there are none, other
            held-out files; where there are none, all.

    Raises:
        DataError: There is no file of texts, or for ``train`` only held-out ones.
    """
    files = _triplet_files(folder)
    splits = chosen_splits(folder, (file.split for file in files), split)
    chosen = [file for file in files if file.split in splits]
    if not chosen:
        reason = f"only held-out files ({_listed(files)}), which are not trained on"
        raise DataError(f"{folder}: {reason}; name the file itself to read it")
    taken = set(chosen)
    left = [file for file in files if file not in taken]
    if left:
        why = "held-out files are not trained on" if split == TRAIN else f"the held-out files are {_listed(chosen)}"
        say(f"{folder}: {why}; left out {_listed(left)}")
    return chosen


def _triplet_files(folder: Path) -> list[TextFile]:
    """Return the files of a folder of triplets, of whatever split; a folder without any is a ``DataError``."""
    known = _found(folder, _DEPTH)
    if not known:
        raise DataError(f"{folder}: no file of texts in this folder; expected {known_suffixes()}")
    files = [_text_file(path, folder) for path in known if _SHARD.sub("", _stem(path)) not in _NOT_TRIPLETS]
    if not files:
        how = "it is for evaluation only, as corpus.jsonl and queries.jsonl"
        raise DataError(f"{folder}: a folder of queries and documents, not of triplets; {how}")
    return files


def check_held_out(held_out: str | Path, *, train: Iterable[str | Path], texts: Iterable[str | Path] = ()) -> None:
    """Refuse, with a ``ConfigError``, to evaluate on a file that is read to train on: of triplets, or of plain texts."""
    held = files_read(held_out, "test")
    for source in train:
        for path in sorted(held & files_read(source)):
            raise ConfigError(
                f"{path} is held out, and {source} is trained on, which has it too; take it out, or give it a name that says dev or test"
            )
    for source in texts:
        # Where a folder has no table, all documents below it are read.
        tables, place = files_read(source), Path(source).resolve()
        for path in sorted(path for path in held if path in tables or (not tables and path.is_relative_to(place))):
            raise ConfigError(f"{path} is held out, and {source} is learnt from, which has it too; take it out")


def files_read(source: str | Path, split: str = TRAIN) -> set[Path]:
    """Return the local files of triplets that are read from a source for a split; none where it is no local one."""
    path = Path(source)
    if not path.is_dir():
        return {path.resolve()} if path.is_file() else set()
    try:
        files = _triplet_files(path)
    except DataError:
        return set()  # A folder of queries and documents; one that is none of either is told when it is read.
    splits = _splits_for({file.split for file in files}, split)
    return {file.path.resolve() for file in files if file.split in splits}


def chosen_splits(source: str | Path, there: Iterable[str], split: str) -> set[str]:
    """Return which of the splits that are there to read for ``split``, by the rule of ``choose_files``; "" is an untold one.

    Says so where rows that are named as those to train on are read for anything else.
    """
    known = set(there)
    if split != TRAIN and TRAIN in known and not known - {"", TRAIN}:
        say(f"{source}: nothing is held out; its training rows are read, and a score on what was trained on says little")
    return _splits_for(known, split)


def _splits_for(known: set[str], split: str) -> set[str]:
    held_out = known - {"", TRAIN}
    return known - held_out if split == TRAIN else {_SPLITS.get(split.lower(), split)} & held_out or held_out or known


def split_told(name: str) -> str:
    """Return the split that a name tells by its last word for one (train, validation, test), else an empty text."""
    words = _SPLIT.findall(name)
    return _SPLITS[words[-1].lower()] if words else ""


def visible_files(folder: Path) -> list[Path]:
    """Return all files below a folder, in the order of their paths, but those that are hidden, of installed code, or in a folder
    that prune2vec wrote: a run inside the folder that it mines would learn from its own reports."""
    found = ((path, path.relative_to(folder).parts) for path in files_of_others(folder))
    return [path for path, parts in found if not any(part in _SKIPPED or part[0] == "." for part in parts)]


def _listed(files: Sequence[TextFile]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(file.path.name for file in files[:_SHOWN]) + more


def _found(folder: Path, depth: int) -> list[Path]:
    """Return the files of known formats in a folder; where there are none, those in its folders."""
    splits, state = folder / "dataset_dict.json", folder / "state.json"
    if splits.is_file():
        return [path for name in _names(splits, "splits") for path in _found(folder / name, 0)]
    if state.is_file() and "_data_files" in read_json(state):
        # The other .arrow files of such a folder are caches.
        return [folder / name for name in _names(state, "_data_files", "filename")]
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    entries = [path for path in inside if not path.name.startswith((".", "cache-"))]
    files = [path for path in entries if path.is_file() and suffix_of(path) in FORMATS]
    if files or not depth:
        return files
    folders = [path for path in entries if path.is_dir() and not path.is_symlink() and path.name not in _NOT_TRIPLETS]
    return [path for one in folders if not is_ours(one) for path in _found(one, depth - 1)]


def _names(file: Path, key: str, inner: str = "") -> list[str]:
    """Return the names that a file of ``save_to_disk`` lists."""
    value: Any = read_json(file)
    listed = value.get(key) if isinstance(value, dict) else None
    names: list[Any] = [entry.get(inner) if inner and isinstance(entry, dict) else entry for entry in listed or ()]
    if not isinstance(listed, list) or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise DataError(f"{file}: {key} is no list of names; expected what datasets.save_to_disk writes")
    return names


def _text_file(path: Path, folder: Path) -> TextFile:
    inside = [part.name for part in path.relative_to(folder).parents][:-1]
    names = [_SHARD.sub("", _stem(path)), *inside]
    split = next(filter(None, map(split_told, names)), "")
    told = [name for name in map(_without_split, names) if name not in _PLAIN]
    # A name that is a split alone is as good as the folder's own where both are side by side.
    if not told and not inside and names[0] not in _PLAIN:
        told = names
    around = folder.absolute()
    if not told and around.parent.name == "snapshots":
        # The hub's cache: datasets--owner--name/snapshots/COMMIT.
        told = [around.parent.parent.name.rpartition("--")[2]]
    return TextFile(path, told[0] if told else around.name, split)


def dataset_name(path: Path) -> str:
    """Return the data set's name of a file: ``squad`` for ``squad.dev.jsonl.gz`` and ``squad-train-00000-of-00002.parquet``."""
    stem = _stem(path)
    whole = _SHARD.sub("", stem) or stem
    rest = _without_split(whole)
    return whole if rest in _PLAIN else rest


def _without_split(name: str) -> str:
    last = next(iter(reversed(list(_SPLIT.finditer(name)))), None)
    return (name[: last.start()] + name[last.end() :]).strip("-_. ") if last else name


def _stem(path: Path) -> str:
    # A name that is no UTF-8 would be a data set that cannot be written.
    bare = os.fsencode(path.name.removesuffix(".gz")).decode(errors="replace")
    return bare.removesuffix(suffix_of(path)) if suffix_of(path) in FORMATS else bare
