"""The planners that keep whole layers: so many of them, or up to the layer-loss curve's minimum (L3Prune).

Beside them the search over depths that a budget admits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from functools import partial
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from prune2vec.errors import ConfigError, PlanError, did_you_mean
from prune2vec.models.kept import Kept
from prune2vec.planning.planner import FitsBudget, Picked, Planner, planners
from prune2vec.planning.shares import parse_share, share_of, share_text
from prune2vec.profiling.profile import Profile

Layout = Callable[[int, int], tuple[int, ...]]
"""Which layers stay when so many of so many do."""
Count = Annotated[int, Field(ge=1, le=10**4)]
ALL: Final = "all"
_VARIANTS = ("small", "large")
_COUNTS = ("layers", "depth")


@planners.register("depth")
class DepthPlanner(Planner):
    """Keep the first ``depth`` layers."""

    depth: Count | None = None
    """A number of layers."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        return fixed_count(profile, fits_budget, prefix, count=self.depth, key="depth")


@planners.register("percent")
class PercentPlanner(Planner):
    """Drop ``percent`` of the layers from the end: ``30%``, or the fraction ``0.3`` (L3Prune, section 3.1)."""

    percent: Annotated[
        Fraction, BeforeValidator(partial(parse_share, instead="use --method depth")), PlainSerializer(share_text)
    ] = Fraction(3, 10)
    """Share of the layers to drop, 0% to under 100%."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep n = floor(N (1 - p)) layers, computed exactly, and at least one (0.9 of 10 layers keeps 1)."""
        count = max(1, math.floor(profile.shape.num_layers * (1 - self.percent)))
        return fixed_count(profile, fits_budget, prefix, count=count, key="depth")


class LayersPlanner(Planner):
    """Keeps so many layers."""

    layers: Count | None = None
    """How many layers stay."""


@planners.register("keep-last")
class KeepLastPlanner(LayersPlanner):
    """Keep the first layers and the very last one (Gromov et al., arXiv 2403.17887, section 4.4)."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        return fixed_count(profile, fits_budget, first_and_last, count=self.layers, key="layers")


@planners.register("uniform")
class UniformPlanner(LayersPlanner):
    """Keep layers at an even stride, first and last among them: a control for methods that look at the model."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        return fixed_count(profile, fits_budget, spread, count=self.layers, key="layers")


@planners.register("l3prune")
class L3PrunePlanner(Planner):
    """Keep the layers up to the least loss in the lower half (``small``) or the upper half (``large``)."""

    variant: Literal["small", "large"] = "large"
    """Which half: small or large."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep the depth with the least loss of the half, or of all that the budget admits where it is over that."""
        pick, notes = least_of_half(profile, self.variant)
        counts = admitted(profile, fits_budget, prefix)
        if pick not in counts:
            asked, pick = pick, least_loss(profile, counts)
            notes = (f"{self.variant} is depth {asked}, over the budget; kept {pick}, the best depth that fits it",)
        return Picked(Kept.whole(range(pick)), notes)


def prefix(count: int, of: int) -> tuple[int, ...]:
    """Return the first ``count`` layers: the cut that drops the last ones."""
    return tuple(range(count))


def first_and_last(count: int, of: int) -> tuple[int, ...]:
    """Return the first ``count - 1`` layers and the last; the last alone when one is kept."""
    return (*range(count - 1), of - 1)


def spread(count: int, of: int) -> tuple[int, ...]:
    """Return ``count`` of ``of`` layers at even distances; the first alone when one is kept."""
    if count == 1:
        return (0,)
    # Integer rounding to the nearest place, halves down, so that no platform's float rounding shifts a layer.
    gaps = count - 1
    return tuple((2 * place * (of - 1) + gaps - 1) // (2 * gaps) for place in range(count))


def fixed_count(
    profile: Profile, fits_budget: FitsBudget, layout: Layout, *, count: int | None, key: str, fewest: int = 1
) -> Picked:
    """Keep ``count`` layers as ``layout`` has them; when the budget forbids it, the best count that it admits.

    With ``count`` None the profile chooses among the admitted ones, which needs a budget that binds. ``layout`` knows of
    ``fewest`` layers and more.

    Raises:
        PlanError: The model does not have ``count`` layers, or neither a count nor a budget is given.
    """
    total = profile.shape.num_layers
    if count is not None and count > total:
        raise PlanError(f"{key} {count} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    if count is not None and count < fewest:
        raise PlanError(
            f"the order was measured down to {fewest} layers, so {count} cannot be kept; measure it with more rounds (a key of --config)"
        )
    counts = admitted(profile, fits_budget, layout, fewest=fewest)
    if count is None and len(counts) == total - fewest + 1:
        raise PlanError(f"give --{key} (1 to {total}), or a budget that rules some depths out, such as --max-params 90M")
    if count in counts:
        return Picked(Kept(layers=layout(count, total)))
    best = least_loss(profile, counts)
    asked = f"{count} layers are over the budget; " if count is not None else ""
    among = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return Picked(
        Kept(layers=layout(best, total)), (f"{asked}kept {best}, the best of {among} layers by the loss of first layers",)
    )


def admitted(profile: Profile, fits_budget: FitsBudget, layout: Layout, *, fewest: int = 1) -> list[int]:
    """Return the counts of layers, from ``fewest`` on, that the budget admits; none at all is a ``PlanError``."""
    total = profile.shape.num_layers
    counts = [count for count in range(fewest, total + 1) if fits_budget(Kept(layers=layout(count, total)))]
    if not counts:
        smallest = profile.shape.params(layout(fewest, total))
        least = "even one layer" if fewest == 1 else f"even {fewest} layers, down to which the order was measured"
        raise PlanError(f"the budget admits not {least} ({smallest:,} parameters with its embeddings); loosen it")
    return counts


def least_loss(profile: Profile, depths: Iterable[int]) -> int:
    """Return the depth with the least loss; the shallowest one of equals, as numpy's argmin in the papers' code."""
    depths = list(depths)
    profile.check_measured(depths)
    return min(depths, key=lambda depth: (profile.layer_loss.loss[depth - 1], depth))


def least_of_half(profile: Profile, variant: str) -> tuple[int, tuple[str, ...]]:
    """Return L3Prune's pick (arXiv 2410.14578, section 3.2), and notes: an edge, near ties, nothing cut.

    ``small`` chooses from the depths 1 to N // 2, ``large`` from the rest.

    Raises:
        PlanError: The model has one layer and no lower half.
    """
    total = profile.shape.num_layers
    half = range(1, total // 2 + 1) if variant == "small" else range(total // 2 + 1, total + 1)
    if not half:
        raise PlanError("a model of one layer has no lower half; nothing can be cut")
    pick, notes = least_loss(profile, half), []
    if variant == "large" and pick == total:
        notes.append("the least loss of the upper half is at the last layer: nothing is cut")
    elif pick in (half[0], half[-1]) and len(half) > 1:
        side = "upper" if pick == half[-1] else "lower"
        notes.append(f"depth {pick} is the {side} edge of its half ({half[0]} to {half[-1]}): a range minimum, maybe no basin")
    ties = near_ties(profile, pick, half)
    if ties:
        notes.append(f"near tie: depth {', '.join(map(str, ties))} within two standard errors of depth {pick}")
    if len(profile.layer_loss.group_loss) < 2:
        notes.append("one group only: the uncertainty of the pick is not known")
    return pick, tuple(notes)


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
    text, words = str(value).strip().lower(), (ALL, *_VARIANTS)
    if text in words:
        return text
    if isinstance(value, bool) or not text.isdecimal() or not 1 <= int(text[:6]) <= 10**4:
        raise ValueError(f"expected all, small, large or a number of layers, got {value!r}{did_you_mean(text, words)}")
    return int(text)


FirstLayers = Annotated[int | Literal["all", "small", "large"], BeforeValidator(_read_depth)]
"""Layers that are kept before anything else is dropped: a number, ``all``, or L3Prune's pick, ``small`` or ``large``."""


def depth_of(profile: Profile, depth: int | str) -> tuple[int, tuple[str, ...]]:
    """Return how many of the first layers stay, and notes on that pick; more than there are is a ``PlanError``."""
    if depth in _VARIANTS:
        return least_of_half(profile, str(depth))
    total = profile.shape.num_layers
    layers = total if isinstance(depth, str) else depth
    if layers > total:
        raise PlanError(f"depth {layers} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    return layers, ()


def read_size(value: Any) -> int | str | Fraction:
    """Read ``30%``, ``small``, ``large`` or a number of layers."""
    text = str(value).strip().lower()
    if text in ("small", "large"):
        return text
    if not isinstance(value, bool) and text.isdecimal() and 1 <= int(text[:6]) <= 10**4:
        return int(text)
    try:
        share = share_of(text) if text.endswith("%") else None
    except ValueError:
        share = None
    if share is None or not 0 < share <= 1:
        raise ValueError(f"expected a share of the layers such as 30%, small, large, or a number of layers, got {value!r}")
    return share


def written_size(size: int | str | Fraction) -> int | str:
    """Return a size as it is read."""
    return share_text(size) if isinstance(size, Fraction) else size


Size = Annotated[Any, BeforeValidator(read_size), PlainSerializer(written_size)]
"""How much stays: a share of the layers (``30%``, rounded to the nearest number, at least one), a number of layers, or L3Prune's
``small`` or ``large``."""


def sized(profile: Profile, method: str, size: int | str | Fraction) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the parameters and the budget with which a method keeps so much.

    A method that keeps whole layers keeps so many; another one at most as many parameters as the first so many layers have.

    Raises:
        ConfigError: The method has sizes of its own.
        PlanError: The model does not have so many layers.
    """
    if isinstance(size, Fraction):
        size = max(1, math.floor(size * profile.shape.num_layers + Fraction(1, 2)))
    layers, _ = depth_of(profile, size)
    key = count_key(method)
    if key is not None:
        return {key: layers}, {}
    return {}, {"max_params": profile.shape.params(range(layers))}


def count_key(method: str) -> str | None:
    """Return the parameter for a method's number of whole layers, if any; one with own sizes is a ``ConfigError``."""
    if method in ("l3prune", "percent"):
        raise ConfigError(
            f"{method} has sizes of its own; the method depth keeps first layers too, and takes small, large and shares"
        )
    fields = planners.get(method).model_fields
    return next((name for name in _COUNTS if name in fields and fields[name].annotation == (Count | None)), None)
