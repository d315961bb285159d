"""Amounts with a unit, as people write them: 90M, 1.5B, 4GB."""

from __future__ import annotations

import re
from fractions import Fraction
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


def exact(text: str) -> Fraction:
    """Read ``0.3``, ``3/10`` or ``3e-1`` as the number that is written, without rounding.

    Raises:
        ValueError: It is no such number, or one of more than 60 characters or an exponent of more than two digits: those
            take as long to compute with as they are long, or longer.
    """
    text = text.strip()
    if len(text) > 60 or re.search(r"_|e[+-]?\d{3}", text, re.IGNORECASE):
        raise ValueError(f"expected a short number, got {text[:60]!r}")
    try:
        return Fraction(text)
    except ZeroDivisionError as error:
        raise ValueError(f"{text!r} divides by zero") from error


Amount = Annotated[int, Field(gt=0, le=10**18), BeforeValidator(parse_amount)]


def readable_bytes(amount: int) -> str:
    """Return an amount of memory in words: ``870 MB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if amount >= size:
            return f"{amount / size:.3g} {unit}"
    return f"{amount} bytes"
