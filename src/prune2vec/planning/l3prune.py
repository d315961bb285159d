"""L3Prune (arXiv 2410.14578, section 3.2): cut where the layer-loss curve has its minimum in the lower or upper half."""

from __future__ import annotations

import math
import statistics

from prune2vec.errors import PlanError, did_you_mean
from prune2vec.planning.count_search import admitted, least_loss
from prune2vec.planning.planner import Allowed, Choice, planners, prefix
from prune2vec.profiling.profile import Profile

VARIANTS = ("small", "large")


@planners.register("l3prune")
def l3prune(profile: Profile, allowed: Allowed, *, variant: str = "large") -> Choice:
    """Keep the layers up to the least loss in the lower half (``small``) or the upper half (``large``).

    Args:
        variant: Which half: small or large.
    """
    total = profile.shape.num_layers
    half = half_of(variant, total)
    pick = least_loss(profile, half)
    counts = admitted(profile, allowed, prefix)
    if pick in counts:
        return Choice(keep=prefix(pick, total), parameters={"variant": variant}, notes=pick_notes(profile, pick, half, variant))
    best = least_loss(profile, counts)
    note = f"{variant} is depth {pick}, over the budget; kept {best}, the best depth that fits it"
    return Choice(keep=prefix(best, total), parameters={"variant": variant}, notes=(note,))


def half_of(variant: str, total: int) -> range:
    """Return the depths that ``variant`` chooses from: 1 to N // 2 for small, the rest for large.

    Raises:
        PlanError: There is no such variant, or the model has one layer and no lower half.
    """
    if variant not in VARIANTS:
        raise PlanError(f"l3prune has no variant {variant!r}{did_you_mean(variant, VARIANTS)}")
    middle = total // 2
    if variant == "small" and middle < 1:
        raise PlanError("a model of one layer has no lower half; nothing can be cut")
    return range(1, middle + 1) if variant == "small" else range(middle + 1, total + 1)


def pick_notes(profile: Profile, pick: int, half: range, variant: str) -> tuple[str, ...]:
    """Return what a reader should know about the least loss of a half: an edge, near ties, nothing cut."""
    notes = []
    if variant == "large" and pick == profile.shape.num_layers:
        notes.append("the least loss of the upper half is at the last layer: nothing is cut")
    elif pick in (half[0], half[-1]) and len(half) > 1:
        side = "upper" if pick == half[-1] else "lower"
        notes.append(f"depth {pick} is the {side} edge of its half ({half[0]} to {half[-1]}): a range minimum, maybe no basin")
    ties = near_ties(profile, pick, half)
    if ties:
        notes.append(f"near tie: depth {', '.join(map(str, ties))} within two standard errors of depth {pick}")
    if len(profile.layer_loss.group_loss) < 2:
        notes.append("one group only: the uncertainty of the pick is not known")
    return tuple(notes)


def near_ties(profile: Profile, pick: int, depths: range) -> list[int]:
    """Return the other depths whose loss is within two standard errors of the pick's, paired over the groups."""
    groups = profile.layer_loss.group_loss
    if len(groups) < 2:
        return []
    ties = []
    for depth in depths:
        differences = [group[depth - 1] - group[pick - 1] for group in groups]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        if depth != pick and statistics.fmean(differences) <= 2 * error:
            ties.append(depth)
    return ties
