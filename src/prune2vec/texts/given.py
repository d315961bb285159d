"""Texts as users give them to a function: rows, or where they are read from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune2vec.errors import DataError
from prune2vec.texts.folders import TRAIN
from prune2vec.texts.reader import load_triplets
from prune2vec.texts.triplet import Triplet

Texts = str | Path | Sequence[str | Path] | Sequence[Triplet]


def given_triplets(texts: Texts, *, require_negative: bool = True, split: str = TRAIN) -> list[Triplet]:
    """Return triplets that were given as such, or read them from one or several files, folders and hub data sets.

    Raises:
        DataError: They cannot be read, there are none, or they are neither triplets nor sources.
    """
    listed = [texts] if isinstance(texts, str | Path) else list(texts)
    rows = [one for one in listed if isinstance(one, Triplet)]
    sources = [one for one in listed if isinstance(one, str | Path)]
    if len(rows) < len(listed) and len(sources) < len(listed):
        other = next((one for one in listed if not isinstance(one, Triplet | str | Path)), sources[:1])
        raise DataError(f"expected triplets alone, or files, folders and hub data sets alone, got {other!r} among them")
    return rows or load_triplets(sources, require_negative=require_negative, split=split)
