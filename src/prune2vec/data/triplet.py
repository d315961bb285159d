"""The unit of data: an anchor, a text that fits it, and texts that do not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Triplet:
    """One row of training or probing data.

    Attributes:
        anchor: The query.
        positive: The text that answers it.
        negatives: Texts that do not, hardest first; empty where the source has none.
        dataset: Name of the data set, which chooses the instruction and the homogeneous batches.
        line: Number of the row in its file, from 0 (the public E5 set alternates two instructions by it).
        scores: A teacher's scores, the positive's first and then the negatives'; empty without a teacher.
        group: Package or file from which the row was mined; a split never tears a group apart.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    dataset: str = ""
    line: int = 0
    scores: tuple[float, ...] = ()
    group: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Anchor, positive and negatives, in this order."""
        return (self.anchor, self.positive, *self.negatives)


def digest_texts(triplets: Iterable[Triplet]) -> str:
    """Return the SHA-256 over texts, data set names and scores, in order; line numbers and groups do not count."""
    digest = hashlib.sha256()
    for triplet in triplets:
        row = (triplet.anchor, triplet.positive, triplet.negatives, triplet.dataset, triplet.scores)
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


@dataclass(slots=True)
class Skipped:
    """Counts rows that were passed over because a text in them is empty.

    Attributes:
        empties: How many rows.
        first: The place of the first: ``train.jsonl:17``.
    """

    empties: int = 0
    first: str = ""

    def add(self, where: str) -> None:
        """Count one row at ``where``."""
        self.empties += 1
        self.first = self.first or where
