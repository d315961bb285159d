"""Keep the first n layers, n given."""

from __future__ import annotations

from prune2vec.planning.count_search import fixed_count
from prune2vec.planning.planner import Allowed, Choice, planners, prefix
from prune2vec.profiling.profile import Profile


@planners.register("depth")
def depth(profile: Profile, allowed: Allowed, *, depth: int | None = None) -> Choice:
    """Keep the first ``depth`` layers.

    Args:
        depth: A number of layers.
    """
    return fixed_count(profile, allowed, prefix, count=depth, key="depth")
