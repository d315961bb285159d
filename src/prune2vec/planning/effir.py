"""EffiR (arXiv 2512.20612): drop the least important MLPs, then cut the width of those that are left."""

from __future__ import annotations

from fractions import Fraction

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.depth_rules import ALL, FirstLayers, depth_of
from prune2vec.planning.drop import ONE_SHOT, SECTIONS, Order, edge_notes, least_important, ranked
from prune2vec.planning.planner import FitsBudget, Picked, Planner, planners, speedup_of
from prune2vec.planning.shares import CountOrShare, Share, count_of, share_text
from prune2vec.profiling.profile import Profile

PAPER_MLPS, PAPER_WIDTH = Fraction(1, 2), Fraction(3, 10)


@planners.register("effir")
class EffirPlanner(Planner):
    """Drop the least important MLPs and cut the width of the others; a budget is met by width first, then by depth.

    What is not given is the paper's: every layer, half of the MLPs dropped, 30% of the remaining neurons cut. Where that is
    over the budget, the width is cut by up to 50%, and then the deepest depth is kept at which the paper's share of MLPs,
    with a width cut between the two, fits.
    """

    depth: FirstLayers | None = None
    """Layers that are kept before anything else is dropped: all, a number, or small or large (L3Prune's picks)."""
    mlps: CountOrShare | None = None
    """MLPs to drop inside that depth: a count, or a share such as 50%, rounded down."""
    width: Share | None = None
    """Share of the remaining MLPs' neurons to cut, such as 30%."""
    order: Order = ONE_SHOT
    """Importance by which MLPs are ranked: one-shot, plain or iterative."""

    def needs(self) -> tuple[str, ...]:
        """Return the order's section."""
        return (SECTIONS[self.order],)

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Cut what is asked for, and what is not as the paper does, or further where the budget needs it.

        Raises:
            PlanError: A parameter does not fit the model, or no cut fits the budget.
            ProfileError: The order was not measured.
        """
        shape, width = profile.shape, PAPER_WIDTH if self.width is None else self.width
        if width and not shape.knows_neurons:
            raise PlanError(
                f"{shape.model_type}: the neurons of its MLPs are not known, so its width cannot be cut; give --width 0%"
            )
        layers, notes = depth_of(profile, ALL if self.depth is None else self.depth)
        asked = kept = self._cut(profile, layers, width)
        if None in (self.depth, self.mlps, self.width) and not fits_budget(asked):
            kept = self._fitting(profile, fits_budget, layers)
            notes += (
                f"the paper's shape is over the budget: {share_text(kept.width_cut)} of the neurons are cut "
                f"({share_text(width)} without a budget), and {len(kept.layers)} of {layers} layers stay",
            )
        size = f"{shape.params(kept):,} parameters, {speedup_of(shape, kept):.2f}x the speed by FLOPs"
        notes += (*edge_notes("M", kept.drop_mlp, kept.layers), size)
        resolved = {
            "depth": len(kept.layers) if self.depth is None else self.depth,
            "mlps": len(kept.drop_mlp),
            "width": share_text(kept.width_cut),
        }
        return Picked(kept, notes, resolved)

    def _cut(self, profile: Profile, layers: int, width: Fraction) -> Kept:
        count = count_of(PAPER_MLPS if self.mlps is None else self.mlps, layers)
        if count >= layers:
            raise PlanError(f"mlps: {count} of {layers}, and one must stay; choose 0 to {layers - 1}, or keep more layers")
        gone = least_important(profile, self.order, "mlp", tuple(range(layers)), count)
        return Kept.of(range(layers), drop_mlp=gone, width_cut=width)

    def _fitting(self, profile: Profile, fits_budget: FitsBudget, layers: int) -> Kept:
        """Return the deepest cut that fits, and the least narrow one of that depth."""
        depths = range(layers, 0, -1) if self.depth is None else (layers,)
        widths = [Fraction(percent, 100) for percent in range(30, 51)] if self.width is None else [self.width]
        named = ranked(profile, self.order, "mlp", layers)
        tried = None
        for depth in depths:
            count = count_of(PAPER_MLPS if self.mlps is None else self.mlps, depth)
            # A count that was given may be all that a smaller depth has, and the iterative order may name too few there.
            if count > min(depth - 1, sum(layer < depth for layer in named)):
                continue
            for width in widths:
                tried = self._cut(profile, depth, width)
                if fits_budget(tried):
                    return tried
        assert tried is not None  # Of all the layers, the cut has been made before.
        raise PlanError(
            f"the budget admits no cut of these: the smallest has {profile.shape.params(tried):,} parameters in "
            f"{len(tried.layers)} layer{'s' * (len(tried.layers) > 1)} (with its embeddings); loosen it"
        )
