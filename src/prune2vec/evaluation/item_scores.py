"""What each query, pair or text adds to a score: kept in ``results.json``, so that a difference gets an interval later."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from prune2vec.files import digest_json
from prune2vec.settings import AS_WRITTEN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Unit = Literal["queries", "pairs", "texts", "sets of texts"]
Statistic = Literal["mean", "spearman"]
# mteb rounds some of its scores to five places.
_SAME = 2e-5


@dataclass(frozen=True, kw_only=True)
class ItemScores:
    """The items that a score is made of, in an order that is the same for every encoder.

    Numbers stand in one string with blanks between them: as a list each would take a line of the file.

    Attributes:
        unit: What an item is.
        statistic: How the score comes from the values: their mean, or Spearman's correlation with ``gold``.
        digest: Of what the items are; only items of the same digest are pairs.
        values: Number of each item: its score, or the similarity that the encoder gives it.
        gold: For a correlation, the right number of each item.
        ranks: Place of each query's first right document, from 1; 0 where none is among those looked at.
        split: Part of the task; empty on own data.
        subset: Part of the task; empty on own data.
    """

    __pydantic_config__ = AS_WRITTEN

    unit: Unit
    statistic: Statistic = "mean"
    digest: str
    values: str
    gold: str = ""
    ranks: str = ""
    split: str = ""
    subset: str = ""

    def __post_init__(self) -> None:
        """Refuse numbers that are none, and columns of different lengths."""
        for name in ("gold", "ranks") if self.statistic == "spearman" else ("ranks",):
            column = getattr(self, name)
            if (column or name == "gold") and len(column.split()) != len(self):
                raise ValueError(f"{name} has {len(column.split())} numbers, values has {len(self)}")
        if not all(math.isfinite(float(word)) for column in (self.values, self.gold) for word in column.split()):
            raise ValueError("values and gold hold a number that is not finite")

    @classmethod
    def of(
        cls,
        values: Iterable[float],
        *,
        items: Any,
        gold: Iterable[float] = (),
        ranks: Iterable[int] = (),
        task: str = "",
        **about: Any,
    ) -> ItemScores:
        """Return the record of numbers; ``items`` is JSON that says what the items of a task are."""
        columns: dict[str, Any] = {"values": _written(values), "gold": _written(gold), "ranks": _written(ranks)}
        return cls(digest=digest_json([task, items]), **columns, **about)

    def __len__(self) -> int:
        """Return how many items there are."""
        return len(self.values.split())

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values, (items,)."""
        return _read(self.values)

    @cached_property
    def right(self) -> NDArray[np.float64]:
        """The gold numbers, (items,)."""
        return _read(self.gold)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The ranks; empty where there are none."""
        return tuple(map(int, self.ranks.split()))

    def make(self, score: float) -> bool:
        """Return whether the items make this score: what they do not make, they say nothing about."""
        if len(self) == 0:
            return False
        if self.statistic == "mean":
            return abs(float(self.numbers.mean()) - score) <= _SAME
        from scipy.stats import spearmanr

        return abs(float(spearmanr(self.right, self.numbers).statistic) - score) <= _SAME

    def pairs_with(self, other: ItemScores) -> bool:
        """Return whether the items of the two are the same ones."""
        mine, theirs = ((one.unit, one.statistic, one.digest, one.split, one.subset, len(one)) for one in (self, other))
        return mine == theirs


def _written(numbers: Iterable[float]) -> str:
    # Nine digits give a number of single precision back as it was.
    return " ".join(f"{number:.9g}" for number in numbers)


def _read(text: str) -> NDArray[np.float64]:
    import numpy as np  # Here: a table of single results waits for no numpy.

    return np.array([float(word) for word in text.split()])
