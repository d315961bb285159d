"""Reading records back as they were written: no value is turned into another one so that it fits."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from prune2vec.errors import did_you_mean

T = TypeVar("T")

Size = Annotated[int, Field(ge=0, le=10**18)]
"""A count of parameters, bytes or neurons."""
Layer = Annotated[int, Field(ge=0, le=10**4)]
"""The number of a layer, or of layers."""

AS_WRITTEN = ConfigDict(extra="forbid")
"""For a dataclass that is read from its own fields alone: ``__pydantic_config__``."""


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_as(kind: type[T], value: Any) -> T:
    """Return a JSON value as a dataclass: 1.9, true and "1" are no whole numbers, and an object is no list.

    Raises:
        ValueError: A key is missing or unknown, or its value does not fit; the message is one line and names the key.
    """
    try:
        found: T = _adapter(kind).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]  # mypy doubts that a class is hashable
        return found
    except ValidationError as error:
        first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "the record"
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        raise ValueError(f"{key} is missing")
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        raise ValueError(f"unknown key {key!r}{did_you_mean(first['loc'][-1], _names(kind))}")
    raise ValueError(f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {_short(first['input'])}")


def _names(kind: type[Any]) -> list[str]:
    return list(getattr(kind, "__dataclass_fields__", ()))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
