"""Reads what to drop as the papers' tables write it: ``8M``, ``16A``, ``8B``, ``last16B``, ``8J``, ``16M8A``, ``50%M``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from prune2vec.errors import PlanError
from prune2vec.planning.shares import amount_text, count_of

DROP_KINDS = {"A": "attentions", "M": "MLPs", "B": "blocks", "J": "sub-layers"}
_ONE = {kind: many.removesuffix("s") for kind, many in DROP_KINDS.items()}
_PART = re.compile(r"[\s+,]*(last)?\s*(?:(\d{1,18})|(\d{1,18}(?:\.\d{1,18})?)\s*%)\s*([ambj])", re.IGNORECASE)
_EXPECTED = (
    "expected a count or share of A (attentions), M (MLPs), B (blocks) or J (jointly), such as 8M, 50%M, last16B or 16M8A"
)


@dataclass(frozen=True, kw_only=True)
class DropPart:
    """One kind of thing to drop.

    Attributes:
        kind: One of ``DROP_KINDS``.
        amount: How many, or a share of those that are there, 0 to 1.
        last: Whether the last ones go instead of the least important ones.
    """

    kind: str
    amount: int | Fraction
    last: bool = False

    def __str__(self) -> str:
        """Write the part as it is read."""
        return f"{'last' if self.last else ''}{amount_text(self.amount)}{self.kind}"

    def count_of(self, total: int, *, leave: int = 0) -> int:
        """Return how many of ``total`` go: the count, or the floor of the share, exactly.

        Args:
            total: How many there are.
            leave: How many must stay.

        Raises:
            PlanError: They are not there, or too few would stay.
        """
        count = count_of(self.amount, total)
        most = max(0, total - leave)
        if count > most == 0:
            raise PlanError(f"{self}: the only {_ONE[self.kind]} must stay; leave {self} out, or keep more layers")
        if count > most:
            stay = f", of which {leave} must stay" if leave and count <= total else ""
            raise PlanError(f"{self}: there {_counted(total, self.kind)}{stay}; drop at most {most}{self.kind}")
        return count


def parse_drop_spec(text: str) -> tuple[DropPart, ...]:
    """Read what to drop; blocks come first, whatever the order in the text.

    Raises:
        PlanError: It cannot be read, names a kind twice, or joins J with A or M.
    """
    parts: list[DropPart] = []
    place = 0
    while match := _PART.match(text, place):
        parts.append(_part(match))
        place = match.end()
    rest = text[place:].strip()
    if rest or not parts:
        raise PlanError(f"what: {_hint(rest)}{_EXPECTED}, got {text!r}")
    kinds = [part.kind for part in parts]
    again = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if again is not None:
        raise PlanError(f"what: {DROP_KINDS[again]} are named twice in {text!r}; name each kind once")
    if "J" in kinds and {"A", "M"} & set(kinds):
        raise PlanError(f"what: J already ranks attentions and MLPs together; leave A and M out of {text!r}")
    return tuple(sorted(parts, key=lambda part: "BJMA".index(part.kind)))


def _counted(total: int, kind: str) -> str:
    return f"is 1 {_ONE[kind]}" if total == 1 else f"are {total} {DROP_KINDS[kind]}"


def _part(match: re.Match[str]) -> DropPart:
    last, count, percent, kind = match.groups()
    amount = int(count) if count is not None else Fraction(percent) / 100
    part = DropPart(kind=kind.upper(), amount=amount, last=last is not None)
    if part.last and part.kind == "J":
        raise PlanError(f"what: {part} has no meaning; J ranks by importance, use last with A, M or B")
    if count is None and amount > 1:
        raise PlanError(f"what: {part} is more than all of them; a share is 0% to 100%")
    return part


def _hint(rest: str) -> str:
    """Return what a near miss probably meant, as the start of a message."""
    fraction = re.match(r"(0?\.\d{1,18})\s*([ambj])", rest, re.IGNORECASE)
    if fraction:
        return f"did you mean {float(Fraction(fraction[1]) * 100):.12g}%{fraction[2].upper()}? "
    turned = re.match(r"([ambj])\s*(\d+%?)", rest, re.IGNORECASE)
    return f"did you mean {turned[2]}{turned[1].upper()}? " if turned else ""
