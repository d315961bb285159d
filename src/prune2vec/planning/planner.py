"""The registry of planners, and what a planner returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Self

from prune2vec.models.kept import Kept
from prune2vec.registry import Registry

Layers = tuple[int, ...]
Allowed = Callable[[Layers | Kept], bool]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a planner picked.

    Attributes:
        keep: Kept layers, 0-based, ascending.
        drop_attention: Those of them that lose their attention, ascending.
        drop_mlp: Those of them that lose their MLP, ascending.
        width_cut: Share of all neurons of the remaining MLPs that is to be cut.
        parameters: The planner's parameters, resolved.
        notes: What a reader should know about the pick.
    """

    keep: Layers
    drop_attention: Layers = ()
    drop_mlp: Layers = ()
    width_cut: Fraction = Fraction(0)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, kept: Kept, *, parameters: Mapping[str, Any], notes: tuple[str, ...] = ()) -> Self:
        """Return the choice to keep what ``kept`` says."""
        return cls(
            keep=kept.layers,
            drop_attention=kept.drop_attention,
            drop_mlp=kept.drop_mlp,
            width_cut=kept.width_cut,
            parameters=parameters,
            notes=notes,
        )

    @property
    def kept(self) -> Kept:
        """What stays, for counting."""
        return Kept(layers=self.keep, drop_attention=self.drop_attention, drop_mlp=self.drop_mlp, width_cut=self.width_cut)


planners: Registry[Callable[..., Choice]] = Registry("planner", package="prune2vec.planning")
"""Each planner is a function ``(profile: Profile, allowed: Allowed, *, its parameters) -> Choice``.

``allowed(kept)`` says whether the budget admits keeping these layers, or layers, sub-layers and widths. A planner that
searches asks it; whatever a planner returns is held against the budget once more.
"""

LayersOf = Callable[[int, int], Layers]


def prefix(count: int, of: int) -> Layers:
    """Return the first ``count`` layers: the cut that drops the last ones."""
    return tuple(range(count))
