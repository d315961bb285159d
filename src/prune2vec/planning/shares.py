"""Shares of a whole (``30%``) and counts of its parts, read and written without rounding."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer


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


def share_of(text: str) -> Fraction:
    """Read ``30%`` or ``0.3`` as the number that is written; anything else is a ``ValueError``."""
    return exact(text.removesuffix("%")) / (100 if text.endswith("%") else 1)


def parse_share(value: object, *, instead: str = "") -> Fraction:
    """Read ``"30%"``, ``"0.3"`` or ``0.3`` as an exact fraction of 0 to under 1; a message says what ``instead`` may be meant."""
    text = str(value).strip()
    try:
        share = share_of(text)
    except ValueError as error:
        raise ValueError(f"expected a share such as 30% or 0.3, got {value!r}") from error
    if not 0 <= share < 1:
        hint = f" (or {instead})" if instead else ""
        raise ValueError(f"{value} drops everything or less than nothing; expected 0% to under 100%{hint}")
    return share


def parse_count(value: object) -> int | Fraction:
    """Read a count (``8``) or a share (``50%``, ``0.5``); anything else is a ``ValueError``."""
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or len(text) > 18:
        return parse_share(value, instead="give a count")
    return int(text)


def count_of(amount: int | Fraction, total: int) -> int:
    """Return how many of ``total`` a count or a share means; shares are rounded down, exactly."""
    return amount if isinstance(amount, int) else math.floor(amount * total)


def share_text(share: Fraction) -> str:
    """Write a share as a percentage that ``parse_share`` reads back to the same number up to twelve digits."""
    return f"{float(share * 100):.12g}%"


def amount_text(amount: int | Fraction) -> str:
    """Write a count or a share as ``parse_count`` reads it."""
    return str(amount) if isinstance(amount, int) else share_text(amount)


Share = Annotated[Fraction, BeforeValidator(parse_share), PlainSerializer(share_text)]
CountOrShare = Annotated[int | Fraction, BeforeValidator(parse_count), PlainSerializer(amount_text)]
