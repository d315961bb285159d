"""What the reader left out, so that nothing disappears without a word."""

from __future__ import annotations

from dataclasses import dataclass


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
