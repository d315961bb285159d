"""Splitting into train and dev so that no package and no file is on both sides."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from prune2vec.errors import ConfigError, DataError
from prune2vec.texts.triplet import Triplet


def split_by_group(triplets: Sequence[Triplet], *, dev_fraction: float, seed: int) -> tuple[list[Triplet], list[Triplet]]:
    """Return (train, dev), each in the original order; whole groups go to dev until no further one fits.

    Dev holds at most ``dev_fraction`` of the rows, except that it always holds the smallest group (with 0 it is empty).

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
