"""The difference of two scores, with its interval; what finds it, and takes numpy, is ``intervals``."""

from __future__ import annotations

from dataclasses import dataclass

OWN_DATA, SCORE = "own data", "score"
"""Names of differences that are no task's: of nDCG@10 on the user's own data, and of the one number for comparisons."""
UNSURE = "no difference that these data can tell"


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How much more one encoder scores than another one on the same thing.

    Attributes:
        value: The difference of the two scores.
        low: Lower end of its 95 % interval; None where the results hold nothing that an interval could come from.
        high: Its upper end.
        over: What the scores are from: ``300 queries``.
        why: Why there is no interval; empty where there is one.
    """

    value: float
    low: float | None = None
    high: float | None = None
    over: str = ""
    why: str = ""

    @property
    def interval(self) -> str:
        """The interval as shown in a table; empty where there is none."""
        return f"{self.low:+.4f} to {self.high:+.4f}" if self.low is not None else ""

    @property
    def verdict(self) -> str:
        """What the interval says: better, worse, or that these data cannot tell; or why there is none."""
        if self.low is None or self.high is None:
            return f"no interval: {self.why}"
        return UNSURE if self.low <= 0 <= self.high else "better" if self.low > 0 else "worse"
