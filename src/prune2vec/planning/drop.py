"""Drop the least important sub-layers or blocks (EffiR, arXiv 2512.20612; LLM-Drop, arXiv 2406.15786)."""

from __future__ import annotations

from dataclasses import dataclass

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept
from prune2vec.planning.drop_spec import DropPart, parse_drop_spec
from prune2vec.planning.first_layers import ALL, depth_of
from prune2vec.planning.importance_order import ONE_SHOT, least_important, ranked, ranked_jointly
from prune2vec.planning.planner import Allowed, Choice, Layers, planners
from prune2vec.profiling.profile import Profile

_RANKED_AS = {"A": "attention", "M": "mlp", "B": "block"}
_NAMES = {"A": "attention", "M": "MLP", "B": "block"}


@planners.register("drop")
def drop(
    profile: Profile, allowed: Allowed, *, what: str | None = None, order: str = ONE_SHOT, depth: int | str = ALL
) -> Choice:
    """Drop the least important sub-layers or blocks: 8M, 16A, 8B, 8J, 16M8A, 50%M, last16B.

    Args:
        what: Counts or shares of M (MLPs), A (attentions), B (blocks) and J (attentions and MLPs ranked in one list); last
            drops the deepest instead of the least important. Shares are rounded down. With a budget and nothing here, as few
            MLPs go as fit it.
        order: Importance by which sub-layers are ranked: one-shot (on retrieval texts), plain (on running text) or
            iterative (measured anew after every drop).
        depth: Layers that are kept before anything else is dropped: all, a number, or small or large (L3Prune's picks);
            counts and shares are of these.

    Raises:
        PlanError: ``what`` cannot be read or is more than there is, or nothing that fits the budget can be dropped.
    """
    layers, notes = depth_of(profile, depth)
    parts = _fewest(profile, allowed, order, layers) if what is None else parse_drop_spec(str(what))
    gone = _Gone(profile=profile, order=order, left=tuple(range(layers)))
    for part in parts:
        gone = gone.without(part)
    kept = Kept.of(gone.left, drop_attention=gone.attention, drop_mlp=gone.mlp)
    text = "".join(map(str, parts))
    if not kept.mlps:
        raise PlanError(f"{text} drops every MLP that is left; at least one must stay")
    return Choice.of(
        kept,
        parameters={"what": text, "order": order, "depth": depth},
        notes=(*notes, *gone.notes, *_left_over(gone, kept)),
    )


@dataclass(frozen=True, kw_only=True)
class _Gone:
    """What has been dropped so far, of the first layers of a model.

    Attributes:
        profile: What the ranks come from.
        order: Which ranks.
        left: Blocks that are there.
        attention: Layers whose attention is dropped.
        mlp: Layers whose MLP is dropped.
        notes: On what was dropped.
    """

    profile: Profile
    order: str
    left: Layers
    attention: Layers = ()
    mlp: Layers = ()
    notes: tuple[str, ...] = ()

    def without(self, part: DropPart) -> _Gone:
        """Return this with one more part dropped."""
        if part.kind == "J":
            picked = self._jointly(part)
            attention = tuple(layer for kind, layer in picked if kind == "attention")
            mlp = tuple(layer for kind, layer in picked if kind == "mlp")
            return self._with(attention=attention, mlp=mlp, notes=(*self._edges("A", attention), *self._edges("M", mlp)))
        layers = self._picked(part)
        notes = () if part.last else self._edges(part.kind, layers)
        if part.kind == "B":
            return self._with(left=tuple(layer for layer in self.left if layer not in layers), notes=notes)
        return self._with(**{_RANKED_AS[part.kind]: layers}, notes=notes)

    def _with(self, *, notes: tuple[str, ...], **changes: Layers) -> _Gone:
        kept = {"left": self.left, "attention": self.attention, "mlp": self.mlp, **changes}
        return _Gone(profile=self.profile, order=self.order, notes=(*self.notes, *notes), **kept)

    def _picked(self, part: DropPart) -> Layers:
        # A model without any MLP or block is none; one without attention can be built, and the papers' tables have it.
        count = part.count_of(len(self.left), leave=0 if part.kind == "A" else 1)
        if part.last:
            return self.left[len(self.left) - count :]
        return least_important(self.profile, self.order, _RANKED_AS[part.kind], self.left, count)

    def _jointly(self, part: DropPart) -> tuple[tuple[str, int], ...]:
        count = part.count_of(2 * len(self.left), leave=1)
        pairs = ranked_jointly(self.profile, self.order, self.left[-1] + 1)
        return tuple(pair for pair in pairs if pair[1] in self.left)[:count]

    def _edges(self, kind: str, layers: Layers) -> tuple[str, ...]:
        return edge_notes(kind, layers, self.left)


def edge_notes(kind: str, dropped: Layers, left: Layers) -> tuple[str, ...]:
    """Return a note for each of the first and last layer that is among the dropped: other methods keep them.

    Args:
        kind: ``A``, ``M`` or ``B``.
        dropped: Layers that lose it.
        left: Layers that were there.
    """
    places = ((left[0], "first"), (left[-1], "last"))
    return tuple(f"drops the {_NAMES[kind]} of layer {layer}, the {place} one" for layer, place in places if layer in dropped)


def _fewest(profile: Profile, allowed: Allowed, order: str, layers: int) -> tuple[DropPart, ...]:
    """Return the smallest number of MLPs to drop that fits the budget.

    Raises:
        PlanError: No budget binds, no number is enough, or the order does not name that many.
    """
    if allowed(tuple(range(profile.shape.num_layers))):
        raise PlanError(
            "give --what, such as 8M or 16M8A, or a budget that rules the whole model out, such as --max-params 90M"
        )
    whole = tuple(range(layers))
    ranks = ranked(profile, order, "mlp", layers)[: layers - 1]
    for count in range(len(ranks) + 1):
        if allowed(Kept.of(whole, drop_mlp=ranks[:count])):
            return (DropPart(kind="M", amount=count),)
    least = profile.shape.params(Kept.of(whole, drop_mlp=ranks))
    if len(ranks) < layers - 1:
        raise PlanError(
            f"the {order} order names only {len(ranks)} of {layers} MLPs, and without them there are {least:,} parameters, "
            f"over the budget; measure it with more --rounds, or use --order {ONE_SHOT}"
        )
    raise PlanError(
        f"the budget admits no cut of MLPs alone: without {len(ranks)} of {layers} there are {least:,} parameters in {layers} "
        "layers; give a smaller --depth, use --method effir, or loosen it"
    )


def _left_over(gone: _Gone, kept: Kept) -> tuple[str, ...]:
    notes = []
    both = [layer for layer in gone.left if layer not in kept.layers]
    if both:
        blocks = (
            "1 block loses both sub-layers, and so goes"
            if len(both) == 1
            else f"{len(both)} blocks lose both sub-layers, and so go"
        )
        notes.append(f"{blocks} as a whole")
    if not kept.attentions:
        notes.append("no attention is left: no token sees another one")
    return tuple(notes)
