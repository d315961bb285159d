"""The registry of planners, and what a planner returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prune2vec.registry import Registry

Layers = tuple[int, ...]
Allowed = Callable[[Layers], bool]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a planner picked.

    Attributes:
        keep: Kept layers, 0-based, ascending.
        parameters: The planner's parameters, resolved.
        notes: What a reader should know about the pick.
    """

    keep: Layers
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


planners: Registry[Callable[..., Choice]] = Registry("planner", package="prune2vec.planners")
"""Each planner is a function ``(profile: Profile, allowed: Allowed, *, its parameters) -> Choice``.

``allowed(layers)`` says whether the budget admits keeping these layers; a planner returns only what it admits.
"""

LayersOf = Callable[[int, int], Layers]


def prefix(count: int, of: int) -> Layers:
    """Return the first ``count`` layers: the cut that drops the last ones."""
    return tuple(range(count))
