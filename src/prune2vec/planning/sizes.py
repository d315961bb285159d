"""One measure of how much stays, for every method: so many of the layers, or what they would weigh."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from prune2vec.errors import ConfigError
from prune2vec.planning.depth_rules import Count, depth_of
from prune2vec.planning.planner import planners
from prune2vec.planning.shares import share_of, share_text
from prune2vec.profiling.profile import Profile

_COUNTS = ("layers", "depth")


def read_size(value: Any) -> int | str | Fraction:
    """Read ``30%``, ``small``, ``large`` or a number of layers."""
    text = str(value).strip().lower()
    if text in ("small", "large"):
        return text
    if not isinstance(value, bool) and text.isdecimal() and 1 <= int(text[:6]) <= 10**4:
        return int(text)
    try:
        share = share_of(text) if text.endswith("%") else None
    except ValueError:
        share = None
    if share is None or not 0 < share <= 1:
        raise ValueError(f"expected a share of the layers such as 30%, small, large, or a number of layers, got {value!r}")
    return share


def written_size(size: int | str | Fraction) -> int | str:
    """Return a size as it is read."""
    return share_text(size) if isinstance(size, Fraction) else size


Size = Annotated[Any, BeforeValidator(read_size), PlainSerializer(written_size)]
"""How much stays: a share of the layers (``30%``, rounded to the nearest number, at least one), a number of layers, or L3Prune's
``small`` or ``large``."""


def sized(profile: Profile, method: str, size: int | str | Fraction) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the parameters and the budget with which a method keeps so much.

    A method that keeps whole layers keeps so many; another one at most as many parameters as the first so many layers have.

    Raises:
        ConfigError: The method has sizes of its own.
        PlanError: The model does not have so many layers.
    """
    if isinstance(size, Fraction):
        size = max(1, math.floor(size * profile.shape.num_layers + Fraction(1, 2)))
    layers, _ = depth_of(profile, size)
    key = count_key(method)
    if key is not None:
        return {key: layers}, {}
    return {}, {"max_params": profile.shape.params(range(layers))}


def count_key(method: str) -> str | None:
    """Return the parameter for a method's number of whole layers, if any; one with own sizes is a ``ConfigError``."""
    if method in ("l3prune", "percent"):
        raise ConfigError(
            f"{method} has sizes of its own; the method depth keeps first layers too, and takes small, large and shares"
        )
    fields = planners.get(method).model_fields
    return next((name for name in _COUNTS if name in fields and fields[name].annotation == (Count | None)), None)
