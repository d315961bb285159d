"""A curve in one line of a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

_BARS = "▁▂▃▄▅▆▇█"
_GAP = " "


def sparkline(values: Sequence[float]) -> str:
    """Return one bar per value, lowest value lowest; values that are not finite leave a gap.

    A flat curve is drawn at half height, because neither end of the scale would be true.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return _GAP * len(values)
    low, high = min(finite), max(finite)
    return "".join(_bar(value, low, high) for value in values)


def _bar(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return _GAP
    if high == low:
        return _BARS[len(_BARS) // 2]
    return _BARS[min(len(_BARS) - 1, int((value - low) / (high - low) * len(_BARS)))]
