"""Gromov et al. (arXiv 2403.17887, section 4.4): drop the deepest layers, but keep the very last one."""

from __future__ import annotations

from prune2vec.planning.count_search import fixed_count
from prune2vec.planning.planner import Allowed, Choice, Layers, planners
from prune2vec.profiling.profile import Profile


@planners.register("keep-last")
def keep_last(profile: Profile, allowed: Allowed, *, layers: int | None = None) -> Choice:
    """Keep ``layers`` layers: the first ones and the last.

    Args:
        layers: How many.
    """
    return fixed_count(profile, allowed, first_and_last, count=layers, key="layers")


def first_and_last(count: int, of: int) -> Layers:
    """Return the first ``count - 1`` layers and the last; the last alone when one is kept."""
    return (*range(count - 1), of - 1)
