"""What stays of a model: blocks, their sub-layers and how many neurons of each MLP."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Self

from prune2vec.errors import PlanError

ATTENTION, MLP, BLOCK = KINDS = ("attention", "mlp", "block")
"""What can be dropped of a layer."""


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The blocks, sub-layers and widths that stay; all numbers are 0-based layers of the original model.

    A block that would lose both sub-layers passes its input through: ``of`` leaves it out of ``layers``.

    Attributes:
        layers: Kept blocks, ascending.
        drop_attention: Those of them without attention, ascending.
        drop_mlp: Those of them without MLP, ascending.
        width_cut: Share of the remaining MLPs' neurons that is still to be cut, together.
        widths: Neurons that stay, of the MLPs that are already narrower.
        vocabulary: Token embeddings that stay; None for all.
    """

    layers: tuple[int, ...]
    drop_attention: tuple[int, ...] = ()
    drop_mlp: tuple[int, ...] = ()
    width_cut: Fraction = Fraction(0)
    widths: Mapping[int, int] = field(default_factory=dict)
    vocabulary: int | None = None

    @classmethod
    def of(
        cls,
        layers: Iterable[int],
        *,
        drop_attention: Iterable[int] = (),
        drop_mlp: Iterable[int] = (),
        width_cut: Fraction = Fraction(0),
    ) -> Self:
        """Return what stays of ``layers`` when these sub-layers go; drops in blocks that are not kept are forgotten."""
        no_attention, no_mlp = set(drop_attention), set(drop_mlp)
        kept = tuple(sorted(set(map(operator.index, layers)) - (no_attention & no_mlp)))
        return cls(
            layers=kept,
            drop_attention=tuple(layer for layer in kept if layer in no_attention),
            drop_mlp=tuple(layer for layer in kept if layer in no_mlp),
            width_cut=width_cut,
        )

    @classmethod
    def whole(cls, keep: Iterable[int] | Kept) -> Kept:
        """Return ``keep`` itself, or whole blocks when it is a list of layers."""
        return keep if isinstance(keep, Kept) else cls(layers=tuple(map(operator.index, keep)))

    @property
    def attentions(self) -> tuple[int, ...]:
        """Kept blocks that keep their attention."""
        return tuple(layer for layer in self.layers if layer not in self.drop_attention)

    @property
    def mlps(self) -> tuple[int, ...]:
        """Kept blocks that keep their MLP."""
        return tuple(layer for layer in self.layers if layer not in self.drop_mlp)

    @property
    def whole_blocks(self) -> bool:
        """Whether only whole blocks go."""
        return not (self.drop_attention or self.drop_mlp or self.width_cut or self.widths)

    def cut_neurons(self, full: Mapping[int, int] | tuple[int, ...]) -> int:
        """Return how many neurons of MLPs of ``full`` width go: those that are cut, then ``width_cut`` of the rest, floored."""
        widths = {layer: self.widths.get(layer, full[layer]) for layer in self.mlps}
        gone = sum(full[layer] - width for layer, width in widths.items())
        return gone + math.floor(self.width_cut * sum(widths.values()))


def check_keep(keep: Sequence[int], count: int) -> None:
    """Refuse, with a ``PlanError``, kept layers that are none, or not among ``count``, ascending, each once."""
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= count:
        raise PlanError(f"cannot keep layers {list(keep)}; expected ascending layers between 0 and {count - 1}, at least one")


def check_first_layer(kept: Kept, kind: str) -> None:
    """Refuse, with a ``PlanError``, a cut without layer 0 of a ``kind`` of model that builds its first layer in its own way."""
    if kept.layers[0] != 0:
        raise PlanError(
            f"cannot keep layers {list(kept.layers)}: {kind} builds its first layer otherwise than all others; keep layer 0 too"
        )
