"""Validated settings, and records in files of their own; their errors are one line and name the key that was meant."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from prune2vec.errors import CheckpointError, ConfigError, DataError, Prune2vecError, closest_value, unknown_key
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.paths import as_path, check_target

T = TypeVar("T")

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that Python, numpy and torch all take."""
Size = Annotated[int, Field(ge=0, le=10**18)]
"""A count of parameters, bytes or neurons."""
Layer = Annotated[int, Field(ge=0, le=10**4)]
"""The number of a layer, or of layers."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_amount(value: Any) -> Any:
    """Read ``90M``, ``1.5B`` or ``4GB`` as a number (K, M, G/B are powers of 1000; KiB, MiB, GiB of 1024)."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([a-z]*)\s*", value.lower())
    try:
        if match is not None:
            return round(float(match.group(1)) * _UNITS[match.group(2)])
    except (KeyError, OverflowError, ValueError):
        pass  # An unknown unit, infinity, or no number: one message for all.
    raise ValueError(f"expected a number such as 90M, 1.5B or 4GB, got {value!r}")


Amount = Annotated[int, Field(gt=0, le=10**18), BeforeValidator(parse_amount)]
"""An amount with a unit, as people write it."""

AS_WRITTEN = ConfigDict(extra="forbid")
"""For a dataclass that is read from its own fields alone: ``__pydantic_config__``."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys are errors. Subclass it per stage, document fields with docstrings.

    Keys may be written with dashes or underscores. Every number has a least and a largest value, so that no run starts that
    could not end; a test looks for them.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        loc_by_alias=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where no switch is: Python would count them as 1 and 0."""
        found = value if isinstance(value, (list, tuple)) else (value,)
        kind = cls.model_fields[info.field_name or ""].annotation
        if bool not in (kind, *get_args(kind)) and any(isinstance(one, bool) for one in found):
            raise ValueError(f"expected no truth value here, got {str(value).lower()}")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _paths_are_words(cls, value: Any) -> Any:
        """Take a path, alone or in a list, for its name."""
        if isinstance(value, list | tuple) and any(isinstance(one, Path) for one in value):
            return [str(one) if isinstance(one, Path) else one for one in value]
        return str(value) if isinstance(value, Path) else value

    @field_validator("*", mode="after")
    @classmethod
    def _home(cls, value: Any) -> Any:
        """Put the home folder in place of ``~`` in a path."""
        return as_path(value) if isinstance(value, Path) else value

    @classmethod
    def build(cls, values: Mapping[str, Any], *, where: str) -> Self:
        """Validate ``values``, which come from ``where``, such as ``"recipe.yaml"`` or ``"train()"``.

        Raises:
            ConfigError: A key is unknown (the closest known one is named) or a value does not fit.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{where}: {_explained(error, cls)}") from error

    @classmethod
    def chosen(cls, settings: Settings | Mapping[str, Any] | None, overrides: Mapping[str, Any], *, where: str) -> Self:
        """Return the settings of a call as ``build`` does: what is set in ``settings``, and ``overrides`` over it."""
        given: Any = {} if settings is None else settings
        if isinstance(settings, Settings):
            given = settings.model_dump(exclude_unset=True)
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where}: settings must be {cls.__name__} or a mapping of its fields, got {settings!r}")
        named = {str(key).replace("-", "_"): value for key, value in given.items()}
        # A key given both ways is refused by build.
        return cls.build({**named, **overrides} if len(named) == len(given) else given, where=where)


def read_as(kind: type[T], value: Any) -> T:
    """Return a JSON value as a dataclass: 1.9, true and "1" are no whole numbers, and an object is no list.

    Raises:
        ValueError: A key is missing or unknown, or its value does not fit; the message is one line and names the key.
    """
    try:
        found: T = adapter(kind).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]  # mypy doubts that a class is hashable
        return found
    except ValidationError as error:
        raise ValueError(_explained(error, kind, as_json=True)) from error


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what reads and writes a dataclass; made once a class."""
    return TypeAdapter(kind)


class Record:
    """Base of the frozen dataclasses that one verb writes as JSON and another one reads.

    ``FORMAT`` is the file's format and version, ``KIND`` what it is called, ``VERB`` the verb that makes it where that has
    another name, ``ERROR`` what a broken file raises, and ``COMPUTED`` names properties that are written for readers; a file
    that says otherwise is broken. ``LATER`` names fields that files of earlier releases lack: their defaults say what was meant.
    """

    FORMAT: ClassVar[str]
    KIND: ClassVar[str]
    VERB: ClassVar[str] = ""
    ERROR: ClassVar[type[Prune2vecError]]
    COMPUTED: ClassVar[tuple[str, ...]] = ()
    LATER: ClassVar[tuple[str, ...]] = ()
    __pydantic_config__ = AS_WRITTEN

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        kind: Any = type(self)
        computed = {name: getattr(self, name) for name in self.COMPUTED}
        return {"format": self.FORMAT, **computed, **adapter(kind).dump_python(self, mode="json")}

    @property
    def digest(self) -> str:
        """SHA-256 of the record."""
        return digest_json(self.to_json())

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all; anything but an earlier record of its kind is not written over (``target``)."""
        write_json(self.target(path), self.to_json())

    @classmethod
    def target(cls, path: Path | str) -> Path:
        """Return a path if the record can be written there; long work asks before it starts.

        Raises:
            CheckpointError: As ``check_target``; or a file is there that is no such record, of whatever version.
        """
        path = check_target(Path(path), folder=False)
        if not path.is_file() or not path.stat().st_size:
            return path
        try:
            value = read_json(path)
        except DataError:
            value = None
        kind = str(value.get("format")) if isinstance(value, dict) else ""
        if kind.partition("/")[0] != cls.FORMAT.partition("/")[0]:
            raise CheckpointError(
                f"cannot write {path}: it is no {cls.KIND} of prune2vec, and would be lost; name another file"
            )
        return path

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file that ``save`` wrote.

        Raises:
            DataError: It is missing or not JSON.
            Prune2vecError: It is JSON but no such record of this version, or its values do not fit each other; ``ERROR`` is
                raised.
        """
        value, verb = read_json(Path(path)), cls.VERB or cls.KIND
        if not isinstance(value, dict) or value.get("format") != cls.FORMAT:
            raise cls.ERROR(f"{path}: not a {cls.KIND} (expected format {cls.FORMAT!r}); make one with prune2vec {verb}")
        entries = {key: item for key, item in value.items() if key not in ("format", *cls.COMPUTED)}
        try:
            # Other defaults are for callers: a file has every entry.
            names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
            absent = [name for name in names if name not in (*entries, *cls.LATER)]
            if absent:
                raise ValueError(f"{absent[0]} is missing")
            found = read_as(cls, entries)
            for name in cls.COMPUTED:
                if value.get(name, getattr(found, name)) != getattr(found, name):
                    raise ValueError(f"{name} is {value[name]!r}, but the other entries make it {getattr(found, name)!r}")
            return found
        except ValueError as error:
            raise cls.ERROR(f"{path}: broken {cls.KIND} ({error}); make it again with prune2vec {verb}") from error
        except Prune2vecError as error:
            raise cls.ERROR(f"{path}: {error}") from error


def _explained(error: ValidationError, kind: type[Any], *, as_json: bool = False) -> str:
    """Return the first thing that is wrong in one line, values and types as JSON calls them where they come from there."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    said, came, context = first["msg"], first["input"], first.get("ctx", {})
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        *group, name = first["loc"]
        name = str(name).replace("-", "_")
        key = ".".join(map(str, [*group, name]))
        for part in group:
            kind = next(_groups_in(_fields(kind).get(str(part))), kind)
        known = tuple(_fields(kind))
        if name in known:
            return f"key {key!r} is given twice, with a dash and with an underscore"
        return unknown_key(key, known)
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{key} is missing"
    if first["type"] in ("value_error", "assertion_error"):
        # The message of a validator of ours, which says what came.
        return f"{key}: {context['error']}".removeprefix(": ")
    if as_json:
        text = json.dumps(came)
        text = text if len(text) <= 60 else f"{text[:60]}..."
        return f"{key or 'the record'}: {said[:1].lower()}{said[1:]}, got {text}"
    near = closest_value(came, re.findall(r"'([^']*)'", context["expected"])) if first["type"] == "literal_error" else ""
    return f"{key}: {said}, got {came!r}{near}" if key else said


def _groups_in(annotation: Any) -> Iterator[type[Any]]:
    """Yield the settings classes and dataclasses that an annotation is made of."""
    if _fields(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _groups_in(part)


def _fields(kind: Any) -> dict[str, Any]:
    """Return the annotation of each field of a settings class or dataclass; none for anything else."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return {}
