"""Options made from settings classes (names, types, defaults and docstrings of the fields say it all), and paths as values.

Paths in settings are inputs, so they must be there.
"""

from __future__ import annotations

import os
import pkgutil
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import click
from click.core import ParameterSource

from prune2vec.errors import RENAMED_VALUES, ConfigError
from prune2vec.paths import as_path, check_target, looks_local, must_exist

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from prune2vec.settings import Settings


@dataclass(frozen=True)
class OptionGroup:
    """A settings class whose fields are options of a verb.

    Attributes:
        keyword: The verb's function gets the built settings under this name.
        title: Heading of these options in the help.
        settings: Where the class is (``"prune2vec.encoding.encode_settings:EncodeSettings"``), or what returns it; looked up
            only when the verb is used, so that the list of verbs imports no settings.
        only_config: Fields for experts, separated by blanks: keys of a ``--config`` file, but no options.
    """

    keyword: str
    title: str
    settings: str | Callable[[], type[Settings]]
    only_config: str = ""

    def load(self) -> type[Settings]:
        """Import the class and return it."""
        if not isinstance(self.settings, str):
            return self.settings()
        found: type[Settings] = pkgutil.resolve_name(self.settings)
        return found


class _Path(click.ParamType[Any]):
    """A path that a file system takes; what no path can be is wrong usage."""

    name = "path"
    to_write = False

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Turn the word into a path, or refuse it."""
        try:
            return as_path(value, to_write=self.to_write)
        except ConfigError as error:
            self.fail(str(error), param, ctx)


class ExistingPath(_Path):
    """A file or folder that must be there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path if it exists."""
        return must_exist(super().convert(value, param, ctx))


class SourceName(_Path):
    """A name that may be a local path or something known elsewhere (a hub id, a built-in name); paths must be there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, checked if it can only be a path."""
        path, word = super().convert(value, param, ctx), str(value)
        if looks_local(word) or os.path.exists(path):
            must_exist(path)
        # ./docstrings is a folder, docstrings a name: only the home folder is put in its place.
        return str(path) if word.startswith("~") else word


TRIPLETS = "Triplets: a file, a folder of files or a hub dataset, or several of these, separated by commas."


class SourceNames(SourceName):
    """One or several such names, separated by commas."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the names, each checked; a path that holds a comma is one. A list from a settings file comes as it is."""
        given = Listed(or_word=False).convert(value, param, ctx) if isinstance(value, str | list) else [value]
        return tuple(SourceName.convert(self, one, param, ctx) for one in given)


class OutputPath(_Path):
    """A file or folder to write."""

    to_write = True

    def __init__(self, *, folder: bool) -> None:
        self._folder = folder
        self.name = "folder" if folder else "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path if it can be written."""
        return check_target(super().convert(value, param, ctx), folder=self._folder)


class RayShards(click.ParamType[int | str]):
    """A number of shards, or auto."""

    name = "shards"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the number, or auto."""
        word = str(value)
        if word != "auto" and not re.fullmatch("[1-9][0-9]{0,5}", word):
            self.fail(f"{word[:40]!r}: expected a number of shards from 1 to 999,999, or auto", param, ctx)
        return word if word == "auto" else int(word)


class WholeNumber(click.IntRange):
    """A whole number within limits; click calls it an integer range."""

    name = "whole number"


class Number(click.FloatRange):
    """A number within limits."""

    name = "number"


_LIMITS = {"ge": ("min", False), "gt": ("min", True), "le": ("max", False), "lt": ("max", True)}
_PLAIN: dict[object, click.ParamType[Any]] = {
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: ExistingPath(),
}


class GroupedOption(click.Option):
    """An option that belongs to a section of the help; ``hidden`` where it is a key of a ``--config`` file alone."""

    def __init__(self, *args: Any, section: OptionGroup, title: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self.title = title

    def consume_value(self, ctx: click.Context, opts: Any) -> tuple[Any, ParameterSource]:
        """Read the value; refuse one on the command line where only a file may give it."""
        value, source = super().consume_value(ctx, opts)
        if self.hidden and source is ParameterSource.COMMANDLINE:
            key = str(self.name).replace("_", "-")
            raise click.UsageError(f"{self.opts[0]} is no option; write {key} into a YAML file and give it with --config", ctx)
        return value, source


class Listed(click.ParamType[Any]):
    """A list, written with commas: ``64,128``; one word stays a word where the setting takes that too."""

    name = "list"

    def __init__(self, *, or_word: bool) -> None:
        self._or_word = or_word

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Split at the commas, unless the whole is a path; a list from a settings file comes as it is."""
        if not isinstance(value, str) or (self._or_word and "," not in value):
            return value
        if os.path.exists(value):
            return [value]
        return [part.strip() for part in value.split(",") if part.strip()]


class _Choice(click.Choice[str]):
    """One of several words; a former word is answered with the new one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word if it is one of them."""
        if RENAMED_VALUES.get(value) in self.choices:
            self.fail(f"{value!r} is called {RENAMED_VALUES[value]!r} now", param, ctx)
        return super().convert(value, param, ctx)


def options_from(section: OptionGroup) -> list[GroupedOption]:
    """Return one option for each field of the section's settings class."""
    kind, options = section.load(), []
    for name, field in kind.model_fields.items():
        flag = "--" + name.replace("_", "-")
        choices = _without_none(field.annotation)
        is_switch = choices == [bool]
        # Fields of a class that several settings extend stand under its own heading, the same for all of them.
        bases = [base for base in kind.__mro__[1:] if name in getattr(base, "model_fields", ())]
        option = GroupedOption(
            [f"{flag}/--no-{flag[2:]}" if is_switch else flag, name],
            section=section,
            title=re.split(r"[.:;]", bases[-1].__doc__ or "")[0] if bases else section.title,
            # The default stays with the settings class; None here means "not given".
            default=None,
            type=click.BOOL if is_switch else _value_type(choices, field),
            help=_help(field),
            hidden=name in section.only_config.split(),
        )
        options.append(option)
    return options


def _help(field: FieldInfo) -> str:
    text = " ".join((field.description or "").split())
    if field.is_required():
        return text
    default = field.get_default(call_default_factory=True, validated_data={})
    if default in (None, "", (), []):
        return text
    if isinstance(default, bool):
        default = "on" if default else "off"
    shown = ",".join(map(str, default)) if isinstance(default, tuple | list) else str(default)
    return f"{text}  [default: {shown}]".strip()


def _without_none(annotation: Any) -> list[Any]:
    # Here, as the list of verbs is to be there in no time.
    from pydantic import BeforeValidator

    if get_origin(annotation) is Annotated:
        inner, *extras = get_args(annotation)
        # What has a reader of its own (90M, 4GB) is taken as text and read by the settings class.
        return [str] if any(isinstance(extra, BeforeValidator) for extra in extras) else _without_none(inner)
    if get_origin(annotation) in (Union, types.UnionType):
        return [found for part in get_args(annotation) for found in _without_none(part)]
    return [] if annotation is type(None) else [annotation]


def _value_type(choices: list[Any], field: FieldInfo) -> click.ParamType[Any]:
    """Return the command-line type for a field that takes any of ``choices``; settings classes validate the rest."""
    limits: dict[str, Any] = {}
    for limit in field.metadata:
        for name, (end, is_open) in _LIMITS.items():
            if (value := getattr(limit, name, None)) is not None:
                limits |= {end: value, f"{end}_open": is_open}
    first = choices[0]
    if limits and choices in ([int], [float]):
        return WholeNumber(**limits) if first is int else Number(**limits)
    if len(choices) == 1 and get_origin(first) is Literal:
        return _Choice([str(value) for value in get_args(first)])
    if len(choices) == 1 and first in _PLAIN:
        return _PLAIN[first]
    if any((get_origin(choice) or choice) in (list, tuple) for choice in choices):
        return Listed(or_word=str in choices)
    return click.STRING
