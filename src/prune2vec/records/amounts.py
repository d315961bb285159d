"""Amounts with a unit, as people write them: 90M, 1.5B, 4GB."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_amount(value: Any) -> Any:
    """Read ``90M``, ``1.5B`` or ``4GB`` as a number (K, M, G/B are powers of 1000; KiB, MiB, GiB of 1024).

    Raises:
        ValueError: The text is not a number with one of these units.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([a-z]*)\s*", value.lower())
    try:
        if match is not None:
            return round(float(match.group(1)) * {**_UNITS, **_BINARY}[match.group(2)])
    except (KeyError, OverflowError, ValueError):
        pass  # An unknown unit, infinity, or no number: one message for all.
    raise ValueError(f"expected a number such as 90M, 1.5B or 4GB, got {value!r}")


Amount = Annotated[int, BeforeValidator(parse_amount), Field(gt=0)]


def readable_bytes(amount: int) -> str:
    """Return an amount of memory in words: ``870 MB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount} bytes"
