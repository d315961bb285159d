"""Validated settings whose errors are one line and name the key that was meant."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from prune2vec.errors import ConfigError, did_you_mean

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that Python, numpy and torch all take."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are errors. Subclass it per stage, document fields with docstrings.

    Every number has a least and a largest value, so that no run starts that could not end; a test looks for them.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )

    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys that have another name now, old to new; whoever gives an old one is told the new one."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where no switch is: Python would count them as 1 and 0."""
        found = value if isinstance(value, (list, tuple)) else (value,)
        kind = cls.model_fields[info.field_name or ""].annotation
        if bool not in (kind, *get_args(kind)) and any(isinstance(one, bool) for one in found):
            raise ValueError(f"expected no truth value here, got {str(value).lower()}")
        return value

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate ``values`` (dashes in keys count as underscores).

        Args:
            values: Keys and values as read from YAML, a command line or keyword arguments.
            where: Where they come from, for the message: ``"recipe.yaml"``, ``"train()"``.

        Raises:
            ConfigError: A key is unknown (the closest known one is named) or a value does not fit.
        """
        try:
            return cls.model_validate(_underscored(values, where))
        except ValidationError as error:
            raise ConfigError(f"{where}: {cls._explain(error)}") from error

    @classmethod
    def chosen(cls, settings: Settings | Mapping[str, Any] | None, overrides: Mapping[str, Any], *, where: str) -> Self:
        """Return the settings of a call: what is set in ``settings``, and ``overrides`` over it.

        Raises:
            ConfigError: As ``build``.
        """
        given = (
            settings.model_dump(exclude_unset=True) if isinstance(settings, Settings) else {} if settings is None else settings
        )
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: settings must be {cls.__name__} or a mapping of its fields, got {settings!r}")
        return cls.build({**_underscored(given, where), **overrides}, where=where)

    @classmethod
    def _explain(cls, error: ValidationError) -> str:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            at, name = cls._settings_at(first["loc"][:-1]), str(first["loc"][-1])
            hint = (
                f"; it is called {at.renamed[name]!r} now" if name in at.renamed else did_you_mean(name, tuple(at.model_fields))
            )
            return f"unknown key {key!r}{hint}"
        if first["type"] == "missing":
            return f"{key} is missing"
        if first["type"] in ("value_error", "assertion_error"):
            # The message of a validator of ours, which says what came.
            return f"{key}: {first['ctx']['error']}".removeprefix(": ")
        near = (
            did_you_mean(first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
            if first["type"] == "literal_error"
            else ""
        )
        return f"{key}: {first['msg']}, got {first.get('input')!r}{near}" if key else first["msg"]

    @classmethod
    def _settings_at(cls, location: tuple[int | str, ...]) -> type[Settings]:
        """Return the settings at ``location`` inside the nested ones."""
        here: type[Settings] = cls
        for part in location:
            field = here.model_fields.get(str(part))
            candidates = _settings_in(field.annotation) if field is not None else []
            if candidates:
                here = candidates[0]
        return here


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _settings_in(part)]


def _underscored(value: Any, where: str) -> Any:
    if isinstance(value, list):
        return [_underscored(item, where) for item in value]
    if not isinstance(value, Mapping):
        return value
    result: dict[str, Any] = {}
    for key, item in value.items():
        name = str(key).replace("-", "_")
        if name in result:
            raise ConfigError(f"{where}: key {name!r} is given twice, with a dash and with an underscore")
        result[name] = _underscored(item, where)
    return result


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
