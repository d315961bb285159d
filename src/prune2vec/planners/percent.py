"""Drop a share of the layers from the end (L3Prune, section 3.1: n = floor(N (1 - p)))."""

from __future__ import annotations

import math
from fractions import Fraction

from prune2vec.errors import PlanError
from prune2vec.planners.registry import Allowed, Choice, planners, prefix
from prune2vec.planners.search import fixed_count
from prune2vec.records.profile import Profile


@planners.register("percent")
def percent(profile: Profile, allowed: Allowed, *, percent: float | str = "30%") -> Choice:
    """Drop ``percent`` of the layers from the end: ``30%``, or the fraction ``0.3``."""
    share = parse_share(percent)
    count = depth_for_share(profile.shape.num_layers, share)
    choice = fixed_count(profile, allowed, prefix, count=count, key="depth")
    return Choice(keep=choice.keep, parameters={"percent": f"{float(share * 100):.12g}%"}, notes=choice.notes)


def parse_share(value: float | str) -> Fraction:
    """Read ``"30%"``, ``"0.3"`` or ``0.3`` as an exact fraction.

    Raises:
        PlanError: It is no share of 0 to under 1 (0 to under 100 %).
    """
    text = str(value).strip()
    try:
        share = Fraction(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except (ValueError, ZeroDivisionError) as error:
        raise PlanError(f"percent: expected a share such as 30% or 0.3, got {value!r}") from error
    if not 0 <= share < 1:
        raise PlanError(
            f"percent: {value} drops everything or less than nothing; expected 0% to under 100% (or use --method depth)"
        )
    return share


def depth_for_share(layers: int, share: Fraction) -> int:
    """Return ``floor(layers * (1 - share))``, exactly, and at least 1 (0.9 of 10 layers keeps 1)."""
    return max(1, math.floor(layers * (1 - share)))
