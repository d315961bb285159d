"""Drawing fixed groups of triplets: the batches over which a contrastive loss is measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError, did_you_mean

Order = Literal["sampled", "file", "dataset"]


def draw_groups(triplets: Sequence[Triplet], *, groups: int, size: int, seed: int, order: str) -> list[list[Triplet]]:
    """Return ``groups`` lists of ``size`` triplets.

    Args:
        triplets: All rows to draw from.
        groups: How many groups.
        size: Triplets in each.
        seed: Seed of the draw; not used with ``"file"``.
        order: ``"sampled"`` draws uniformly without replacement over all rows and cuts the draw into consecutive groups, so
            that data sets mix, as the L3Prune code does; ``"file"`` takes the first rows as they stand; ``"dataset"`` makes
            every group from one data set, as training batches are: rows are shuffled within their data set and cut, the
            ragged tail is left, and the groups are drawn from those.

    Raises:
        ConfigError: There is no such order, or a number is below 1.
        DataError: There are too few triplets.
    """
    if order not in get_args(Order):
        raise ConfigError(f"no order is called {order!r}{did_you_mean(order, get_args(Order))}")
    if groups < 1 or size < 1:
        raise ConfigError(f"got {groups} groups of {size}; both must be at least 1")
    if len(triplets) < groups * size:
        need = f"{groups} groups of {size} need {groups * size}"
        raise DataError(f"{len(triplets)} tuples, but {need}; give more texts, or lower groups or group size")
    generator = random.Random(seed)
    if order != "dataset":
        rows = generator.sample(triplets, groups * size) if order == "sampled" else triplets[: groups * size]
        return _cut(rows, size)
    by_dataset: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        by_dataset.setdefault(triplet.dataset, []).append(triplet)
    whole: list[list[Triplet]] = []
    for _, rows in sorted(by_dataset.items()):
        generator.shuffle(rows)
        whole += _cut(rows[: len(rows) // size * size], size)
    if len(whole) < groups:
        have = f"{len(triplets)} tuples of {len(by_dataset)} data sets give {len(whole)} groups of {size} of one data set each"
        raise DataError(f"{have}, but {groups} are needed; give more texts, lower groups or group size, or mix data sets")
    return generator.sample(whole, groups)


def _cut(rows: Sequence[Triplet], size: int) -> list[list[Triplet]]:
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
