"""The verb ``mine``: from a source of text to a folder of training and held-out triplets."""

from __future__ import annotations

import platform
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.data.bm25_negatives import add_negatives
from prune2vec.data.docstrings import mine_docstrings
from prune2vec.data.pairs import MinedPairs
from prune2vec.data.sections import mine_folder
from prune2vec.data.triplet import Triplet, TripletSettings, digest_texts, write_json_lines, write_triplets
from prune2vec.errors import ConfigError, DataError, did_you_mean
from prune2vec.files import write_json
from prune2vec.machine import installed_version
from prune2vec.outputs import TEXTS, check_ours, locked, staged_folder
from prune2vec.public import public


def split_by_group(triplets: Sequence[Triplet], *, dev_fraction: float, seed: int) -> tuple[list[Triplet], list[Triplet]]:
    """Return (train, dev), each in the original order; whole groups go to dev until no further one fits.

    Dev holds at most ``dev_fraction`` of the rows, but always the smallest group (with 0 it is empty).

    Raises:
        ConfigError: ``dev_fraction`` is not in [0, 1).
        DataError: All rows belong to one group.
    """
    if not 0 <= dev_fraction < 1:
        raise ConfigError(f"dev_fraction is {dev_fraction}; expected a share from 0 up to, not including, 1")
    if dev_fraction == 0:
        return list(triplets), []
    sizes = Counter(triplet.group for triplet in triplets)
    if len(sizes) < 2:
        only = next(iter(sizes), "")
        raise DataError(f"all {len(triplets)} rows are of one group ({only!r}); a split without leakage needs two or more")
    names = sorted(sizes)
    random.Random(seed).shuffle(names)
    room = dev_fraction * len(triplets)
    chosen: set[str] = set()
    for name in names:
        if sizes[name] <= room:
            chosen.add(name)
            room -= sizes[name]
    if not chosen:
        chosen = {min(names, key=lambda name: (sizes[name], name))}
    train = [triplet for triplet in triplets if triplet.group not in chosen]
    return train, [triplet for triplet in triplets if triplet.group in chosen]


FORMAT = "prune2vec.mined/1"
DOCSTRINGS = "docstrings"
_TRAIN, _DEV, _CORPUS, _MANIFEST = "train.jsonl.gz", "dev.jsonl.gz", "corpus.jsonl.gz", "mined.json"


@dataclass(frozen=True, kw_only=True)
class MinedFolder:
    """What ``mine`` wrote: the folder, which the triplet reader takes as it is, and the contents of its ``mined.json``."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def train(self) -> Path:
        """Triplets to train on."""
        return self.folder / _TRAIN

    @property
    def dev(self) -> Path:
        """Triplets of held-out packages or files."""
        return self.folder / _DEV

    @property
    def corpus(self) -> Path:
        """All texts, one a line: ``_id`` (dotted name or file#heading), ``title`` (the query), ``text``, ``group``."""
        return self.folder / _CORPUS


@public("mine", "source", "output", "root", settings=TripletSettings)
def mine(
    source: str | Path,
    output: Path | str,
    *,
    root: Path | str | None = None,
    settings: TripletSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> MinedFolder:
    """Mine triplets and write ``train.jsonl.gz``, ``dev.jsonl.gz``, ``corpus.jsonl.gz`` and ``mined.json``.

    Negatives are sought after the split, so that no text of a held-out package or file is seen in training.

    Args:
        source: ``"docstrings"`` (of installed packages) or a folder of Markdown, reStructuredText or plain text.
        output: Folder to write; an earlier result of this verb there is replaced as a whole.
        root: Where the packages are, by default the site-packages of the running Python.
        settings: How many pairs of which texts, and how many of them are held out.
        **overrides: Single settings by name, over those of ``settings``.

    Raises:
        ConfigError: Settings do not fit each other.
        DataError: The source is not there or holds too little.
        CheckpointError: The folder holds something else, or cannot be written.
    """
    output, chosen = Path(output), TripletSettings.chosen(settings, overrides, where="mine")
    with locked(output):
        check_ours(output, TEXTS)
        pairs = _pairs(source, root, chosen)
        train, dev = split_by_group(pairs.triplets, dev_fraction=chosen.dev_fraction, seed=chosen.seed)
        if chosen.negatives:
            train = add_negatives(train, negatives=chosen.negatives, seed=chosen.seed)
            dev = add_negatives(dev, negatives=chosen.negatives, seed=chosen.seed) if dev else []
        groups = Counter(row.group for row in pairs.triplets)
        versions = {"python": platform.python_version(), "prune2vec": installed_version("prune2vec") or "unknown"}
        manifest = {
            "format": FORMAT,
            "source": pairs.source,
            "counts": {"pairs": len(pairs), "train": len(train), "dev": len(dev), "groups": len(groups)},
            "files": {"read": pairs.files, "unreadable": pairs.unreadable},
            "rejected": dict(sorted(pairs.rejected.items())),
            "groups": dict(sorted(groups.items())),
            "dev_groups": sorted({row.group for row in dev}),
            "digests": {"train": digest_texts(train), "dev": digest_texts(dev)},
            "settings": chosen.model_dump(mode="json"),
            "versions": {**versions, "packages": pairs.versions},
        }
        with staged_folder(output, TEXTS) as stage:
            write_triplets(train, stage / _TRAIN)
            if dev:
                write_triplets(dev, stage / _DEV)
            named = zip(pairs.names, pairs.triplets, strict=True)
            documents = ({"_id": name, "title": row.anchor, "text": row.positive, "group": row.group} for name, row in named)
            write_json_lines(documents, stage / _CORPUS)
            write_json(stage / _MANIFEST, manifest)
    return MinedFolder(folder=output, manifest=manifest)


def check_source(source: str | Path, settings: TripletSettings, root: str | Path | None = None) -> None:
    """Refuse a source that is neither docstrings nor a folder, or what belongs to the other one.

    Raises:
        ConfigError: ``root`` or ``packages`` are given with a folder of documents.
        DataError: There is no such folder.
    """
    if str(source) == DOCSTRINGS:
        return
    if root is not None or settings.packages is not None:
        raise ConfigError(f"root and packages belong to the source {DOCSTRINGS!r}, not to a folder of documents ({source})")
    if not Path(source).expanduser().is_dir():
        close = did_you_mean(str(source), [DOCSTRINGS])
        raise DataError(f"{source}: no such folder; expected {DOCSTRINGS!r} or a folder of documents{close}")


def _pairs(source: str | Path, root: str | Path | None, chosen: TripletSettings) -> MinedPairs:
    check_source(source, chosen, root)
    packages, most, seed = chosen.packages, chosen.max_pairs, chosen.seed
    if str(source) == DOCSTRINGS:
        return mine_docstrings(Path(root) if root is not None else None, packages=packages, max_pairs=most, seed=seed)
    return mine_folder(Path(source).expanduser(), max_pairs=most, seed=seed)
