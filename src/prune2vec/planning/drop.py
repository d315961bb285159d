"""Drop the least important sub-layers or blocks (EffiR, arXiv 2512.20612; LLM-Drop, arXiv 2406.15786).

What to drop is written as in the papers' tables: ``8M``, ``16A``, ``8B``, ``last16B``, ``8J``, ``16M8A``, ``50%M``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator

from prune2vec.errors import PlanError, ProfileError
from prune2vec.models.kept import Kept
from prune2vec.planning.depth_rules import ALL, FirstLayers, depth_of
from prune2vec.planning.planner import FitsBudget, Picked, Planner, planners
from prune2vec.planning.shares import amount_text, count_of
from prune2vec.profiling.profile import Profile, Redundancy

ONE_SHOT: Final = "one-shot"
ITERATIVE: Final = "iterative"
SECTIONS = {ONE_SHOT: "redundancy", "plain": "redundancy-plain", ITERATIVE: "redundancy-iterative"}
"""The profile's section that each order is read from."""

# What there is of a kind: several, one, and as the profile ranks it.
_KINDS = {
    "A": ("attentions", "attention", "attention"),
    "M": ("MLPs", "MLP", "mlp"),
    "B": ("blocks", "block", "block"),
    "J": ("sub-layers", "sub-layer", ""),
}
_PART = re.compile(r"[\s+,]*(last)?\s*(?:(\d{1,18})|(\d{1,18}(?:\.\d{1,18})?)\s*%)\s*([ambj])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class DropPart:
    """One kind of thing to drop: A (attentions), M (MLPs), B (blocks) or J (attentions and MLPs ranked jointly).

    ``amount`` is how many, or a share of those that are there; with ``last`` the last ones go, not the least important ones.
    """

    kind: str
    amount: int | Fraction
    last: bool = False

    def __str__(self) -> str:
        """Write the part as it is read."""
        return f"{'last' if self.last else ''}{amount_text(self.amount)}{self.kind}"

    def count_of(self, total: int, *, leave: int = 0) -> int:
        """Return how many of ``total`` go if ``leave`` must stay: the count, or the floor of the share, exactly."""
        count, most = count_of(self.amount, total), max(0, total - leave)
        if count > most:
            many = _KINDS[self.kind][0]
            raise PlanError(f"{self}: {many} there: {total}, to stay at least: {leave}; drop at most {most}{self.kind}")
        return count


def parse_drop(text: str) -> tuple[DropPart, ...]:
    """Read what to drop, blocks first; what cannot be read, names a kind twice or joins J with A or M is a ``ValueError``."""
    parts: list[DropPart] = []
    place = 0
    while match := _PART.match(text, place):
        last, count, percent, kind = match.groups()
        part = DropPart(kind=kind.upper(), amount=int(count) if count else Fraction(percent) / 100, last=last is not None)
        if part.last and part.kind == "J":
            raise ValueError(f"{part} has no meaning; J ranks by importance, use last with A, M or B")
        if count is None and part.amount > 1:
            raise ValueError(f"{part} is more than all of them; a share is 0% to 100%")
        parts.append(part)
        place = match.end()
    rest = text[place:].strip()
    if rest or not parts:
        # What a near miss probably meant.
        hint = ""
        if fraction := re.match(r"(0?\.\d{1,18})\s*([ambj])", rest, re.IGNORECASE):
            hint = f"did you mean {float(Fraction(fraction[1]) * 100):.12g}%{fraction[2].upper()}? "
        elif turned := re.match(r"([ambj])\s*(\d+%?)", rest, re.IGNORECASE):
            hint = f"did you mean {turned[2]}{turned[1].upper()}? "
        raise ValueError(
            f"{hint}expected a count or share of A (attentions), M (MLPs), B (blocks) or J (jointly), such as 8M, 50%M, "
            f"last16B or 16M8A, got {text!r}"
        )
    kinds = [part.kind for part in parts]
    again = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if again is not None:
        raise ValueError(f"{_KINDS[again][0]} are named twice in {text!r}; name each kind once")
    if "J" in kinds and {"A", "M"} & set(kinds):
        raise ValueError(f"J already ranks attentions and MLPs together; leave A and M out of {text!r}")
    return tuple(sorted(parts, key=lambda part: "BJMA".index(part.kind)))


Order = Literal["one-shot", "plain", "iterative"]
"""``one-shot`` (redundancy on retrieval texts), ``plain`` (on running text) or ``iterative`` (measured anew after every drop;
may name fewer layers than the model has)."""


@planners.register("drop")
class DropPlanner(Planner):
    """Drop the least important sub-layers or blocks: 8M, 16A, 8B, 8J, 16M8A, 50%M, last16B."""

    drop: Annotated[str, BeforeValidator(lambda value: "".join(map(str, parse_drop(str(value)))))] | None = None
    """Counts or shares of M (MLPs), A (attentions), B (blocks) and J (attentions and MLPs ranked in one list); last drops the
    deepest instead of the least important. Shares are rounded down. With a budget and nothing here, as few MLPs go as fit it."""
    order: Order = ONE_SHOT
    """Importance by which sub-layers are ranked: one-shot (on retrieval texts), plain (on running text) or iterative (measured
    anew after every drop)."""
    depth: FirstLayers = ALL
    """Layers that are kept before anything else is dropped: all, a number, or small or large (L3Prune's picks); counts and
    shares are of these."""

    def needs(self) -> tuple[str, ...]:
        """Return the order's section, unless only the last ones go."""
        only_last = self.drop is not None and all(part.last for part in parse_drop(self.drop))
        return () if only_last else (SECTIONS[self.order],)

    def pick(self, profile: Profile, fits_budget: FitsBudget) -> Picked:
        """Drop the parts one after the other, blocks first.

        Raises:
            PlanError: They are more than there is, or nothing that fits the budget can be dropped.
        """
        depth, notes = depth_of(profile, self.depth)
        parts = self._fewest(profile, fits_budget, depth) if self.drop is None else parse_drop(self.drop)
        left = tuple(range(depth))
        gone: dict[str, tuple[int, ...]] = {"A": (), "M": ()}
        for part in parts:
            dropped = self._dropped(profile, part, left)
            if not part.last:
                notes += tuple(note for kind, layers in dropped.items() for note in edge_notes(kind, layers, left))
            left = tuple(layer for layer in left if layer not in dropped.get("B", ()))
            gone |= dropped
        kept = Kept.of(left, drop_attention=gone["A"], drop_mlp=gone["M"])
        text = "".join(map(str, parts))
        if not kept.mlps:
            raise PlanError(f"{text} drops every MLP that is left; at least one must stay")
        if both := len(left) - len(kept.layers):
            blocks = (
                "1 block loses both sub-layers, and so goes" if both == 1 else f"{both} blocks lose both sub-layers, and so go"
            )
            notes += (f"{blocks} as a whole",)
        if not kept.attentions:
            notes += ("no attention is left: no token sees another one",)
        return Picked(kept, notes, {"drop": text})

    def _dropped(self, profile: Profile, part: DropPart, left: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """Return the layers of ``left`` that lose something, by the kind of what they lose."""
        if part.kind == "J":
            count = part.count_of(2 * len(left), leave=1)
            pairs = [pair for pair in ranked_jointly(profile, self.order, left[-1] + 1) if pair[1] in left][:count]
            return {kind: tuple(layer for name, layer in pairs if name == _KINDS[kind][2]) for kind in "AM"}
        # A model without any MLP or block is none; one without attention can be built, and the papers' tables have it.
        count = part.count_of(len(left), leave=0 if part.kind == "A" else 1)
        if part.last:
            return {part.kind: left[len(left) - count :]}
        return {part.kind: least_important(profile, self.order, _KINDS[part.kind][2], left, count)}

    def _fewest(self, profile: Profile, fits_budget: FitsBudget, layers: int) -> tuple[DropPart, ...]:
        """Return the smallest number of MLPs to drop that fits the budget."""
        if fits_budget(Kept.whole(range(profile.shape.num_layers))):
            raise PlanError(
                "give --drop, such as 8M or 16M8A, or a budget that rules the whole model out, such as --max-params 90M"
            )
        ranks = ranked(profile, self.order, "mlp", layers)[: layers - 1]
        for count in range(len(ranks) + 1):
            if fits_budget(Kept.of(range(layers), drop_mlp=ranks[:count])):
                return (DropPart(kind="M", amount=count),)
        least = profile.shape.params(Kept.of(range(layers), drop_mlp=ranks))
        if len(ranks) < layers - 1:
            raise PlanError(
                f"the {self.order} order names only {len(ranks)} of {layers} MLPs, and without them there are {least:,} "
                f"parameters, over the budget; measure it with more rounds (a key of --config), or use --order {ONE_SHOT}"
            )
        raise PlanError(
            f"the budget admits no cut of MLPs alone: without {len(ranks)} of {layers} there are {least:,} parameters in "
            f"{layers} layers; give a smaller --depth, use --method effir, or loosen it"
        )


def edge_notes(kind: str, dropped: Iterable[int], left: tuple[int, ...]) -> tuple[str, ...]:
    """Return a note if the first or last layer of those ``left`` is among the dropped: other methods keep them."""
    places = ((left[0], "first"), (left[-1], "last"))
    return tuple(
        f"drops the {_KINDS[kind][1]} of layer {layer}, the {place} one" for layer, place in places if layer in dropped
    )


def ranked(profile: Profile, order: str, kind: str, depth: int) -> tuple[int, ...]:
    """Return the first ``depth`` layers, that whose ``kind`` is missed least first; a ``ProfileError`` if not measured."""
    iterative = order == ITERATIVE
    layers = measured_order(profile, SECTIONS[order], kind) if iterative else _importance(profile, order).order(kind)
    stays = {0} if kind == "block" and profile.shape.first_stays else set()
    return tuple(layer for layer in layers if layer < depth and layer not in stays)


def measured_order(profile: Profile, section: str, key: str) -> tuple[int, ...]:
    """Return the layers of a section in the order in which they went; a ``ProfileError`` if it is no such order."""
    total, found = profile.shape.num_layers, profile.section(section).get(key)
    layers = found if isinstance(found, list | tuple) else ("none",)
    if not all(type(layer) is int and 0 <= layer < total for layer in layers) or len(set(layers)) < len(layers):
        raise ProfileError(f"{section}: {key}: expected different layers of 0 to {total - 1}, got {found!r}; measure it again")
    return tuple(map(int, layers))


def least_important(profile: Profile, order: str, kind: str, among: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the ``count`` layers of ``among`` whose ``kind`` is missed least, in that order.

    Raises:
        PlanError: The order does not name that many of them.
        ProfileError: As ``ranked``.
    """
    if not count:
        return ()
    found = tuple(layer for layer in ranked(profile, order, kind, among[-1] + 1) if layer in among)
    if count > len(found):
        raise PlanError(
            f"the {order} order names only {len(found)} of these {len(among)} layers for {kind}, so it cannot drop {count}; "
            f"measure it with more rounds (a key of --config), or use --order {ONE_SHOT}"
        )
    return found[:count]


def ranked_jointly(profile: Profile, order: str, depth: int) -> tuple[tuple[str, int], ...]:
    """Return attentions and MLPs of the first ``depth`` layers in one list (kind, layer), the least important first.

    Equal ones go MLP first, then the deeper layer first.

    Raises:
        PlanError: The order ranks attentions and MLPs apart.
        ProfileError: As ``ranked``.
    """
    if order == ITERATIVE:
        raise PlanError("a joint drop (J) compares attentions with MLPs, which the iterative order does not; use another order")
    found = _importance(profile, order)
    pairs = [
        (values[layer], rank, -layer) for rank, values in enumerate((found.mlp, found.attention)) for layer in range(depth)
    ]
    return tuple((("mlp", "attention")[rank], -layer) for _, rank, layer in sorted(pairs))


def _importance(profile: Profile, order: str) -> Redundancy:
    name = SECTIONS[order]
    found = Redundancy.from_json(profile.section(name))
    if len(found.mlp) != profile.shape.num_layers:
        raise ProfileError(
            f"{name}: {len(found.mlp)} values for a model of {profile.shape.num_layers} layers; measure it again"
        )
    return found
