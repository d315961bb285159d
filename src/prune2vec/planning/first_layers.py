"""The depth that a planner cuts first, before it looks inside the blocks that are left."""

from __future__ import annotations

from prune2vec.errors import PlanError, did_you_mean
from prune2vec.planning.count_search import least_loss
from prune2vec.planning.l3prune import VARIANTS, half_of, pick_notes
from prune2vec.profiling.profile import Profile

ALL = "all"


def depth_of(profile: Profile, depth: int | str) -> tuple[int, tuple[str, ...]]:
    """Return how many of the first layers stay, and notes on that pick.

    Args:
        profile: A profile.
        depth: A number of layers, ``all``, or L3Prune's pick from the layer-loss curve: ``small`` or ``large``.

    Raises:
        PlanError: It is none of these, or the model does not have that many layers.
    """
    total = profile.shape.num_layers
    text = str(depth).strip().lower()
    if text == ALL:
        return total, ()
    if text in VARIANTS:
        half = half_of(text, total)
        pick = least_loss(profile, half)
        return pick, pick_notes(profile, pick, half, text)
    if isinstance(depth, bool) or not text.removeprefix("-").isdecimal() or len(text) > 18:
        hint = did_you_mean(text, (ALL, *VARIANTS))
        raise PlanError(f"depth: expected all, small, large or 1 to {total}, got {depth!r}{hint}")
    if not 1 <= int(text) <= total:
        raise PlanError(f"depth {text} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    return int(text), ()
