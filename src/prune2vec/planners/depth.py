"""Keep the first n layers, n given."""

from __future__ import annotations

from prune2vec.planners.registry import Allowed, Choice, planners, prefix
from prune2vec.planners.search import fixed_count
from prune2vec.records.profile import Profile


@planners.register("depth")
def depth(profile: Profile, allowed: Allowed, *, depth: int | None = None) -> Choice:
    """Keep the first ``depth`` layers.

    Args:
        depth: A number of layers.
    """
    return fixed_count(profile, allowed, prefix, count=depth, key="depth")
