"""The planners that drop whole blocks in an order: by what a scorer tells of them, and controls that look at nothing."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from prune2vec.errors import ProfileError
from prune2vec.planning.depth_rules import LayersPlanner, fixed_count, prefix
from prune2vec.planning.drop import ONE_SHOT, SECTIONS, measured_order, ranked
from prune2vec.planning.planner import FitsBudget, Picked, planners
from prune2vec.profiling.profile import Profile, most_redundant_first
from prune2vec.settings import Seed


class BlockOrder(LayersPlanner):
    """Drops blocks in an order until ``layers`` of them are left."""

    @abstractmethod
    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers in the order in which they go; those that it does not name stay."""

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        # Where the first layer is built otherwise than all others, no other one can take its place.
        order = [layer for layer in self.order(profile) if layer or not profile.shape.first_stays]
        total = profile.shape.num_layers

        def layout(count: int, of: int) -> tuple[int, ...]:
            return tuple(sorted(set(range(of)) - set(order[: of - count])))

        return fixed_count(profile, fits_budget, layout, count=self.layers, key="layers", fewest=max(1, total - len(order)))


@planners.register("block-influence")
class BlockInfluencePlanner(BlockOrder):
    """Drop the blocks that change their input least (ShortGPT, arXiv 2403.03853: 1 - cos, one shot, at any place)."""

    def needs(self) -> tuple[str, ...]:
        """Return the section of ``redundancy``."""
        return (SECTIONS[ONE_SHOT],)

    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers, the one whose block changes its input least first."""
        return ranked(profile, ONE_SHOT, "block", profile.shape.num_layers)


@planners.register("magnitude")
class MagnitudePlanner(BlockOrder):
    """Drop the blocks that add least to the stream relative to its length, or those with the smallest weights."""

    by: Literal["relative", "weight"] = "relative"
    """The mean of ||F(x)|| / ||x + F(x)|| over tokens (relative), or the sum of the absolute weights (weight)."""

    def needs(self) -> tuple[str, ...]:
        """Return the section of ``magnitude``."""
        return ("magnitude",)

    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers, the smallest first."""
        row = _checked("magnitude", self.by, profile.section("magnitude").get(self.by), profile.shape.num_layers)
        return most_redundant_first(dict(enumerate(row)))


@planners.register("ablation")
class AblationPlanner(BlockOrder):
    """Drop the block whose loss is missed least, measure anew, and again (SLEB, arXiv 2402.09025, with the contrastive loss)."""

    def needs(self) -> tuple[str, ...]:
        """Return the section of ``ablation``."""
        return ("ablation",)

    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers as they went."""
        return measured_order(profile, "ablation", "order")


@planners.register("linear-fit")
class LinearFitPlanner(LayersPlanner):
    """Keep the layers of whose vectors a linear layer makes most of the whole model's: the first ones, or what is left when the
    block that is missed least goes, one after the other."""

    def needs(self) -> tuple[str, ...]:
        """Return the section of ``linear-fit``."""
        return ("linear-fit",)

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Keep that many, or the best number that the budget admits."""
        section, total = profile.section("linear-fit"), profile.shape.num_layers
        order = measured_order(profile, "linear-fit", "order")
        first = _checked("linear-fit", "prefix", section.get("prefix"), total)
        chosen = _checked("linear-fit", "cosine", section.get("cosine"), len(order) + 1)

        def layout(count: int, of: int) -> tuple[int, ...]:
            gone = of - count
            if gone > len(order) or first[count - 1] >= chosen[gone]:
                return prefix(count, of)
            return tuple(sorted(set(range(of)) - set(order[:gone])))

        picked = fixed_count(profile, fits_budget, layout, count=self.layers, key="layers")
        count = len(picked.kept.layers)
        told = f"mean cosine to the whole model's vectors through a linear layer: first layers {first[count - 1]:.3f}"
        if total - count <= len(order):
            told += f", searched {chosen[total - count]:.3f}"
        return Picked(picked.kept, (*picked.notes, told))


@planners.register("reverse")
class ReversePlanner(BlockOrder):
    """Drop the first layers instead of the last ones: a control for methods that look at the model."""

    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers from the first on."""
        return range(profile.shape.num_layers)


@planners.register("random")
class RandomPlanner(BlockOrder):
    """Drop layers drawn by a seed: the control that every method must beat. Smaller cuts keep a part of what larger ones keep."""

    seed: Seed = 42
    """Seed of the draw."""

    def order(self, profile: Profile) -> Sequence[int]:
        """Return the layers as they are drawn."""
        total = profile.shape.num_layers
        return random.Random(self.seed).sample(range(total), total)


@planners.register("angular")
class AngularPlanner(LayersPlanner):
    """Drop the run of blocks across which the last token's state turns least (Gromov et al., arXiv 2403.17887, section 3)."""

    def needs(self) -> tuple[str, ...]:
        """Return the section of ``angular-distance``."""
        return ("angular-distance",)

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Drop blocks l to l + n - 1 of the least d(l, n), the deepest of equals; n by the layers, or the best that the budget admits."""
        section, total = profile.section("angular-distance"), profile.shape.num_layers
        rows = section.get("distance")
        if not isinstance(rows, list | tuple) or len(rows) != total:
            raise ProfileError(f"angular-distance: expected {total} rows of distances; measure it again")
        distance = [_checked("angular-distance", f"distance[{place}]", row, total - place) for place, row in enumerate(rows)]

        def layout(count: int, of: int) -> tuple[int, ...]:
            gone = of - count
            if not gone:
                return tuple(range(of))
            begins = range(int(profile.shape.first_stays), count + 1)
            begin = min(begins, key=lambda place: (distance[place][gone - 1], -place))
            return (*range(begin), *range(begin + gone, of))

        return fixed_count(profile, fits_budget, layout, count=self.layers, key="layers")


def _checked(section: str, name: str, row: Any, count: int) -> Sequence[float]:
    """Return a row of a section, which has so many numbers, all finite as in every profile; else it is a ``ProfileError``."""
    if not isinstance(row, list | tuple) or len(row) != count or not all(isinstance(one, int | float) for one in row):
        raise ProfileError(f"{section}: {name}: expected {count} numbers; measure it again")
    return row
