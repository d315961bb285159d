"""Command-line options made from settings classes: the fields' names, types, defaults and docstrings say it all.

Paths in settings are inputs, so they must be there.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from prune2vec.cli.path_types import ExistingPath

if TYPE_CHECKING:
    from prune2vec.settings import Settings


@dataclass(frozen=True)
class OptionGroup:
    """A settings class whose fields are options of a verb.

    Attributes:
        keyword: The verb's function gets the built settings under this name.
        title: Heading of these options in the help.
        load: Returns the class; called only when the verb is used, so that the list of verbs imports no settings.
    """

    keyword: str
    title: str
    load: Callable[[], type[Settings]]


_LIMITS = {"ge": ("min", False), "gt": ("min", True), "le": ("max", False), "lt": ("max", True)}
_PLAIN: dict[object, click.ParamType[Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: ExistingPath(),
}


class GroupedOption(click.Option):
    """An option that belongs to a section of the help."""

    def __init__(self, *args: Any, section: OptionGroup, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class Listed(click.ParamType[Any]):
    """A list, written with commas: ``64,128``; one word stays a word where the setting takes that too."""

    name = "list"

    def __init__(self, *, or_word: bool) -> None:
        self._or_word = or_word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at the commas; a list from a settings file comes as it is."""
        if not isinstance(value, str) or (self._or_word and "," not in value):
            return value
        return [part.strip() for part in value.split(",") if part.strip()]


def options_from(section: OptionGroup) -> list[GroupedOption]:
    """Return one option for each field of the section's settings class."""
    return [_option(name, field, section) for name, field in section.load().model_fields.items()]


def _option(name: str, field: FieldInfo, section: OptionGroup) -> GroupedOption:
    flag = "--" + name.replace("_", "-")
    choices = _without_none(field.annotation)
    is_switch = choices == [bool]
    declaration = f"{flag}/--no-{flag[2:]}" if is_switch else flag
    return GroupedOption(
        [declaration, name],
        section=section,
        # The default stays with the settings class; None here means "not given".
        default=None,
        type=click.BOOL if is_switch else _value_type(choices, _limits(field)),
        help=_help(field),
    )


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if field.is_required():
        return text
    default = field.get_default(call_default_factory=True) if field.default_factory is None else field.default_factory()  # type: ignore[call-arg]
    return text if default in (None, "", (), []) else f"{text}  [default: {_shown(default)}]".strip()


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)


def _without_none(annotation: Any) -> list[Any]:
    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        # What has a reader of its own (90M, 4GB) is taken as text and read by the settings class.
        return [str] if any(isinstance(extra, BeforeValidator) for extra in extras) else _without_none(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in _without_none(part)]
    return [] if annotation is type(None) else [annotation]


def _limits(field: FieldInfo) -> dict[str, Any]:
    """Return the least and the largest value of a number, as click's ranges take them."""
    found: dict[str, Any] = {}
    for limit in field.metadata:
        for name, (end, is_open) in _LIMITS.items():
            if (value := getattr(limit, name, None)) is not None:
                found |= {end: value, f"{end}_open": is_open}
    return found


def _value_type(choices: list[Any], limits: dict[str, Any]) -> click.ParamType[Any]:
    """Return the command-line type for a field that takes any of ``choices``; settings classes validate the rest."""
    first = choices[0]
    if choices == [int] and limits:
        return click.IntRange(**limits)
    if choices == [float] and limits:
        return click.FloatRange(**limits)
    if len(choices) == 1 and get_origin(first) is Literal:
        return click.Choice([str(value) for value in get_args(first)])
    if len(choices) == 1 and first in _PLAIN:
        return _PLAIN[first]
    if any((get_origin(choice) or choice) in (list, tuple) for choice in choices):
        return Listed(or_word=str in choices)
    return click.STRING
