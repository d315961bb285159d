"""How much each sub-layer changes the residual stream: the importance that sub-layers are dropped by."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from prune2vec.errors import ProfileError
from prune2vec.models.kept import KINDS
from prune2vec.settings import Size, read_as


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """Importance 1 - cos(x_in, x_out) of every sub-layer, mean over tokens; low means redundant; index 0 is layer 0.

    Attributes:
        attention: Of each attention sub-layer.
        mlp: Of each MLP.
        block: Of each block as a whole.
        tokens: Tokens in the mean.
        texts: What they belong to: ``retrieval`` or ``plain``.
    """

    attention: tuple[float, ...]
    mlp: tuple[float, ...]
    block: tuple[float, ...]
    tokens: Size
    texts: str

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> Self:
        """Read a section that the scorers ``redundancy`` or ``redundancy-plain`` made.

        Raises:
            ProfileError: It is something else, or its rows differ in length or hold NaN or infinity.
        """
        try:
            found = read_as(cls, section)
        except ValueError as error:
            raise ProfileError(f"broken redundancy section ({error}); measure it again with prune2vec profile") from error
        rows = {kind: found.row(kind) for kind in KINDS}
        if len({len(row) for row in rows.values()}) > 1:
            counts = ", ".join(f"{kind} {len(row)}" for kind, row in rows.items())
            raise ProfileError(f"redundancy section with rows of different length ({counts}); measure it again")
        bad = next((kind for kind, row in rows.items() if not all(map(math.isfinite, row))), None)
        if bad is not None:
            raise ProfileError(f"redundancy section with NaN or infinity in {bad}; measure it again, with --dtype float32")
        return found

    def row(self, kind: str) -> tuple[float, ...]:
        """Return the importance of all sub-layers of a kind (one of ``KINDS``)."""
        return {"attention": self.attention, "mlp": self.mlp, "block": self.block}[kind]

    def order(self, kind: str) -> tuple[int, ...]:
        """Return the layers, most redundant first; see ``most_redundant_first``."""
        return most_redundant_first(dict(enumerate(self.row(kind))))


def most_redundant_first(importance: Mapping[int, float]) -> tuple[int, ...]:
    """Return the layers of ``importance`` in the order in which they are to be dropped.

    LLM-Drop, whose order EffiR uses, sorts by value alone, so equal values fall as the sort has it. Here the later layer
    goes first, as the later ones of both papers' models are the redundant ones.
    """
    return tuple(sorted(importance, key=lambda layer: (importance[layer], -layer)))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation (equal values share a rank), or None where one row is constant."""
    try:
        return statistics.correlation(_ranks(first), _ranks(second))
    except statistics.StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    ordered = sorted(values)
    last = {value: rank for rank, value in enumerate(ordered)}
    return [(ordered.index(value) + last[value]) / 2 for value in values]
