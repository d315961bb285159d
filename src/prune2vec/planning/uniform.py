"""Keep layers at an even stride, a control for methods that look at the model."""

from __future__ import annotations

from prune2vec.planning.count_search import fixed_count
from prune2vec.planning.planner import Allowed, Choice, Layers, planners
from prune2vec.profiling.profile import Profile


@planners.register("uniform")
def uniform(profile: Profile, allowed: Allowed, *, layers: int | None = None) -> Choice:
    """Keep ``layers`` layers evenly spread over the model, first and last among them.

    Args:
        layers: How many.
    """
    return fixed_count(profile, allowed, spread, count=layers, key="layers")


def spread(count: int, of: int) -> Layers:
    """Return ``count`` of ``of`` layers at even distances; the first alone when one is kept."""
    if count == 1:
        return (0,)
    # Integer rounding to the nearest place, halves down, so that no platform's float rounding shifts a layer.
    gaps = count - 1
    return tuple((2 * place * (of - 1) + gaps - 1) // (2 * gaps) for place in range(count))
