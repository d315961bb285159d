"""The planners that keep a given number of whole layers, and the search over depths that a budget admits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import partial
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.planner import FitsBudget, Picked, Planner, planners
from prune2vec.planning.shares import parse_share, share_text
from prune2vec.profiling.profile import Profile

Layout = Callable[[int, int], tuple[int, ...]]
"""Which layers stay when so many of so many do."""
Count = Annotated[int, Field(ge=1, le=10**4)]


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
        picked = fixed_count(profile, fits_budget, prefix, count=count, key="depth")
        return Picked(picked.kept, picked.notes)


@planners.register("keep-last")
class KeepLastPlanner(Planner):
    """Keep the first layers and the very last one (Gromov et al., arXiv 2403.17887, section 4.4)."""

    layers: Count | None = None
    """How many."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        return fixed_count(profile, fits_budget, first_and_last, count=self.layers, key="layers")


@planners.register("uniform")
class UniformPlanner(Planner):
    """Keep layers at an even stride, first and last among them: a control for methods that look at the model."""

    layers: Count | None = None
    """How many."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        return fixed_count(profile, fits_budget, spread, count=self.layers, key="layers")


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


def least_loss(profile: Profile, depths: Iterable[int]) -> int:
    """Return the depth with the least loss; the shallowest one of equals, as numpy's argmin in the papers' code.

    Raises:
        ProfileError: One of them was not measured.
    """
    depths = list(depths)
    profile.check_measured(depths)
    return min(depths, key=lambda depth: (profile.layer_loss.loss[depth - 1], depth))


def admitted(profile: Profile, fits_budget: FitsBudget, layout: Layout) -> list[int]:
    """Return the counts of layers that the budget admits.

    Raises:
        PlanError: It admits none.
    """
    total = profile.shape.num_layers
    counts = [count for count in range(1, total + 1) if fits_budget(Kept(layers=layout(count, total)))]
    if not counts:
        smallest = profile.shape.params(layout(1, total))
        raise PlanError(f"the budget admits not even one layer ({smallest:,} parameters with its embeddings); loosen it")
    return counts


def fixed_count(profile: Profile, fits_budget: FitsBudget, layout: Layout, *, count: int | None, key: str) -> Picked:
    """Keep ``count`` layers as ``layout`` has them; when the budget forbids it, the best count that it admits.

    With ``count`` None the profile chooses among the admitted ones, which needs a budget that binds.

    Raises:
        PlanError: The model does not have ``count`` layers, or neither a count nor a budget is given.
    """
    total = profile.shape.num_layers
    if count is not None and count > total:
        raise PlanError(f"{key} {count} is not possible: {profile.model.get('name')} has {total} layers; choose 1 to {total}")
    counts = admitted(profile, fits_budget, layout)
    if count is None and len(counts) == total:
        raise PlanError(f"give --{key} (1 to {total}), or a budget that rules some depths out, such as --max-params 90M")
    if count in counts:
        return Picked(Kept(layers=layout(count, total)))
    best = least_loss(profile, counts)
    asked = f"{count} layers are over the budget; " if count is not None else ""
    among = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    note = f"{asked}kept {best}, the best of {among} layers by the profile"
    return Picked(Kept(layers=layout(best, total)), (note,))
