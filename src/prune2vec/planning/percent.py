"""Drop a share of the layers from the end (L3Prune, section 3.1: n = floor(N (1 - p)))."""

from __future__ import annotations

import math
from fractions import Fraction

from prune2vec.planning.count_search import fixed_count
from prune2vec.planning.planner import Allowed, Choice, planners, prefix
from prune2vec.planning.shares import parse_share, share_text
from prune2vec.profiling.profile import Profile


@planners.register("percent")
def percent(profile: Profile, allowed: Allowed, *, percent: float | str = "30%") -> Choice:
    """Drop ``percent`` of the layers from the end: ``30%``, or the fraction ``0.3``.

    Args:
        percent: Share of the layers to drop, 0% to under 100%.
    """
    share = parse_share(percent, key="percent", instead="use --method depth")
    count = depth_for_share(profile.shape.num_layers, share)
    choice = fixed_count(profile, allowed, prefix, count=count, key="depth")
    return Choice(keep=choice.keep, parameters={"percent": share_text(share)}, notes=choice.notes)


def depth_for_share(layers: int, share: Fraction) -> int:
    """Return ``floor(layers * (1 - share))``, exactly, and at least 1 (0.9 of 10 layers keeps 1)."""
    return max(1, math.floor(layers * (1 - share)))
