"""EffiR (arXiv 2512.20612): drop the least important MLPs, then cut the width of those that are left."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from prune2vec.errors import PlanError
from prune2vec.planning.budget import speedup_of
from prune2vec.planning.cut_loss_table import SECTION, CutLoss
from prune2vec.planning.cut_search import WIDTHS, MlpCut, best_admitted, candidates
from prune2vec.planning.drop import edge_notes
from prune2vec.planning.first_layers import ALL, depth_of
from prune2vec.planning.importance_order import ONE_SHOT, least_important, ranked, section_of
from prune2vec.planning.planner import Allowed, Choice, Layers, planners
from prune2vec.planning.shares import count_of, parse_count, parse_share, share_text
from prune2vec.profiling.profile import Profile

PAPER_MLPS, PAPER_WIDTH = Fraction(1, 2), Fraction(3, 10)


@planners.register("effir")
def effir(
    profile: Profile,
    allowed: Allowed,
    *,
    depth: int | str | None = None,
    mlps: int | str | None = None,
    width: float | str | None = None,
    order: str = ONE_SHOT,
) -> Choice:
    """Drop the least important MLPs and cut the width of the others; with a budget, search for the least predicted loss.

    Without a budget that rules the whole model out, what is not given is the paper's: every layer, half of the MLPs
    dropped, 30% of the remaining neurons cut. With one, it is searched: all depths, every number of MLPs, and widths
    cut by 0, 10, 20, 30, 40 or 50%. The guide is the profile's ``cut-loss``.

    Args:
        depth: Layers that are kept before anything else is dropped: all, a number, or small or large (L3Prune's picks).
        mlps: MLPs to drop inside that depth: a count, or a share such as 50%, rounded down.
        width: Share of the remaining MLPs' neurons to cut, such as 30%.
        order: Importance by which MLPs are ranked: one-shot, plain or iterative.

    Raises:
        PlanError: A parameter does not fit the model, or no cut fits the budget.
        ProfileError: The order was not measured, or a search is needed and ``cut-loss`` was not.
    """
    asked = _Asked(
        profile=profile,
        depth=depth,
        mlps=None if mlps is None else parse_count(mlps, key="mlps"),
        width=None if width is None else parse_share(width, key="width"),
        order=order,
    )
    if None not in (asked.depth, asked.mlps, asked.width) or allowed(tuple(range(profile.shape.num_layers))):
        return _as_asked(asked)
    return _searched(asked, allowed)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The profile and what was asked for; None where the search or the paper decides."""

    profile: Profile
    depth: int | str | None
    mlps: int | Fraction | None
    width: Fraction | None
    order: str

    @cached_property
    def ranks(self) -> Layers:
        """Layers in the order in which their MLPs go."""
        return ranked(self.profile, self.order, "mlp", self.profile.shape.num_layers)


def _as_asked(asked: _Asked) -> Choice:
    """Cut what was asked for, by the paper's shape where nothing was."""
    layers, notes = depth_of(asked.profile, ALL if asked.depth is None else asked.depth)
    mlps = _mlp_count(PAPER_MLPS if asked.mlps is None else asked.mlps, layers)
    cut = MlpCut(depth=layers, mlps=mlps, width=PAPER_WIDTH if asked.width is None else asked.width)
    # Refuses an order that does not name enough layers, which only counts here: the search tries what is named.
    least_important(asked.profile, asked.order, "mlp", tuple(range(layers)), mlps)
    guide = CutLoss.of(asked.profile) if SECTION in asked.profile.sections else None
    return _choice(asked, cut, guide, notes)


def _searched(asked: _Asked, allowed: Allowed) -> Choice:
    """Return the best cut within the budget, whatever is not given being free.

    Raises:
        PlanError: The budget admits none, or nothing was measured for what is given.
        ProfileError: The order or ``cut-loss`` was not measured.
    """
    asked.profile.check_has(section_of(asked.order), SECTION)
    guide, shape = CutLoss.of(asked.profile), asked.profile.shape
    depths = range(1, shape.num_layers + 1)
    notes: tuple[str, ...] = ()
    if asked.depth is not None:
        depth, notes = depth_of(asked.profile, asked.depth)
        depths = range(depth, depth + 1)
    if asked.mlps is not None:
        _mlp_count(asked.mlps, depths[-1])
    cuts = list(candidates(guide, asked.ranks, depths=depths, mlps=asked.mlps, widths=_widths(asked)))
    if not cuts:
        raise PlanError(
            f"nothing to choose from: {SECTION} was measured for up to {guide.drops[-1]} MLPs dropped and "
            f"{share_text(guide.width_cuts[-1])} of the neurons; ask for less, or measure more"
        )
    best = best_admitted(cuts, asked.ranks, shape, allowed)
    if best is None:
        least = min((cut.kept(asked.ranks) for _, cut in cuts), key=shape.params)
        raise PlanError(
            f"the budget admits no cut of these: the smallest has {shape.params(least):,} parameters in {len(least.layers)} "
            f"layer{'s' if len(least.layers) > 1 else ''} (with its embeddings); loosen it"
        )
    return _choice(asked, best, guide, (*notes, f"the least predicted loss of the {len(cuts):,} cuts that were tried"))


def _mlp_count(mlps: int | Fraction, layers: int) -> int:
    count = count_of(mlps, layers)
    if layers == 1 and count:
        raise PlanError(f"mlps: {count}, but the only layer must keep its MLP; choose 0, or keep more layers")
    if count >= layers:
        raise PlanError(f"mlps: {count} is every MLP of {layers} layers or more; one must stay, choose 0 to {layers - 1}")
    return count


def _widths(asked: _Asked) -> tuple[Fraction, ...]:
    if asked.width is not None:
        return (asked.width,)
    return WIDTHS if asked.profile.shape.knows_neurons else WIDTHS[:1]


def _choice(asked: _Asked, cut: MlpCut, guide: CutLoss | None, notes: tuple[str, ...]) -> Choice:
    kept, shape = cut.kept(asked.ranks), asked.profile.shape
    size = f"{shape.params(kept):,} of {shape.params(range(shape.num_layers)):,} parameters"
    return Choice.of(
        kept,
        parameters={
            "depth": cut.depth if asked.depth is None else asked.depth,
            "mlps": cut.mlps,
            "width": share_text(cut.width),
            "order": asked.order,
        },
        notes=(
            *notes,
            *edge_notes("M", kept.drop_mlp, kept.layers),
            f"{size}, {speedup_of(shape, kept):.2f}x the speed by FLOPs",
            *_prediction(asked, cut, guide),
        ),
    )


def _prediction(asked: _Asked, cut: MlpCut, guide: CutLoss | None) -> tuple[str, ...]:
    """Say what the cut should cost before training, or why that is not known."""
    if guide is None:
        return (f"what the cut costs is not predicted: the profile has no {SECTION}",)
    loss = guide.predicted(cut.depth, cut.mlps, cut.width)
    if loss is None:
        return (f"what the cut costs is not predicted: {SECTION} was not measured that far",)
    note = f"predicted zero-shot loss {loss:.4f} against {guide.whole:.4f} of the whole model; "
    notes = [note + "it overstates what is lost after training (EffiR, table 1 against table 2)"]
    if not guide.was_measured_in(asked.ranks, cut.depth, cut.mlps):
        notes.append(f"{SECTION} was measured with MLPs dropped in another order: the prediction is rough")
    return tuple(notes)
