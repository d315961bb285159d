"""L3Prune (arXiv 2410.14578, section 3.2): cut where the layer-loss curve has its minimum in the lower or upper half."""

from __future__ import annotations

import math
import statistics
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator

from prune2vec.errors import PlanError, did_you_mean
from prune2vec.models.kept import Kept
from prune2vec.planning.depth_rules import admitted, least_loss, prefix
from prune2vec.planning.planner import FitsBudget, Picked, Planner, planners
from prune2vec.profiling.profile import Profile

ALL: Final = "all"
VARIANTS = ("small", "large")


@planners.register("l3prune")
class L3PrunePlanner(Planner):
    """Keep the layers up to the least loss in the lower half (``small``) or the upper half (``large``)."""

    variant: Literal["small", "large"] = "large"
    """Which half: small or large."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep the depth with the least loss of the half, or of all that the budget admits where it is over that."""
        total = profile.shape.num_layers
        half = half_of(self.variant, total)
        pick = least_loss(profile, half)
        counts = admitted(profile, fits_budget, prefix)
        if pick in counts:
            return Picked(Kept(layers=prefix(pick, total)), pick_notes(profile, pick, half, self.variant))
        best = least_loss(profile, counts)
        note = f"{self.variant} is depth {pick}, over the budget; kept {best}, the best depth that fits it"
        return Picked(Kept(layers=prefix(best, total)), (note,))


def half_of(variant: str, total: int) -> range:
    """Return the depths that ``variant`` chooses from: 1 to N // 2 for small, the rest for large.

    Raises:
        PlanError: The model has one layer and no lower half.
    """
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


def _read_depth(value: Any) -> int | str:
    text = str(value).strip().lower()
    if text in (ALL, *VARIANTS):
        return text
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text[:6]) <= 10**4:
        raise ValueError(
            f"expected all, small, large or a number of layers, got {value!r}{did_you_mean(text, (ALL, *VARIANTS))}"
        )
    return int(text)


FirstLayers = Annotated[int | Literal["all", "small", "large"], BeforeValidator(_read_depth)]
"""Layers that are kept before anything else is dropped: a number, ``all``, or L3Prune's pick, ``small`` or ``large``."""


def depth_of(profile: Profile, depth: int | str) -> tuple[int, tuple[str, ...]]:
    """Return how many of the first layers stay, and notes on that pick.

    Raises:
        PlanError: The model does not have that many layers.
    """
    total = profile.shape.num_layers
    if depth == ALL:
        return total, ()
    if isinstance(depth, str):
        half = half_of(depth, total)
        pick = least_loss(profile, half)
        return pick, pick_notes(profile, pick, half, depth)
    if depth > total:
        raise PlanError(f"depth {depth} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    return depth, ()
