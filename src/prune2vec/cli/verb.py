"""A verb of the command line: the options that all verbs share, a settings file, ``--dry-run``, and one result printed once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click
from click.core import ParameterSource

from prune2vec.cli.options import ExistingPath, GroupedOption, Listed, OptionGroup, SourceNames, options_from
from prune2vec.errors import RENAMED, ConfigError, shown_json, shown_lines, unknown_key
from prune2vec.progress import set_enabled

if TYPE_CHECKING:
    from prune2vec.settings import Settings

DEBUG = "prune2vec.debug"
"""Key of a command line's ``meta``: whether the traceback of an error is shown."""
WORKING = "prune2vec.working"
"""Key of a command line's ``meta``: whether the verb is at work, and not reading options or printing."""

_COMMON = ("config", "dry_run", "json", "quiet", "debug", "_click_default_help")


class Printable(Protocol):
    """What a verb returns: printed as text by default, as JSON with ``--json``; one that has ``failed`` ends the program with 1."""

    def render(self) -> str:
        """Return text for people."""
        ...

    def to_json(self) -> Mapping[str, Any]:
        """Return JSON-ready data for programs."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The result of a verb whose function has none that prints itself."""

    text: str
    data: Mapping[str, Any]

    def render(self) -> str:
        """Return the text."""
        return self.text

    def to_json(self) -> Mapping[str, Any]:
        """Return the data."""
        return self.data


@dataclass(frozen=True)
class Uploaded:
    """The result of a verb whose folder was uploaded, with the repository's address behind it."""

    result: Printable
    address: str

    def render(self) -> str:
        """Return the result's text and the address."""
        return f"{self.result.render()}\n{self.address}"

    def to_json(self) -> Mapping[str, Any]:
        """Return the result's data and the address."""
        return {**self.result.to_json(), "hub": self.address}


def would(
    action: str, *, reads: Iterable[object], writes: Path | None, settings: Settings | Mapping[str, Any] | None = None
) -> Outcome:
    """Describe what a verb would do, ``action`` in the infinitive, for ``--dry-run``; its inputs have been checked."""
    sources, target = [str(source) for source in reads], str(writes) if writes is not None else None
    values = dict(settings or {}) if isinstance(settings, Mapping | None) else settings.model_dump(mode="json")
    lines = [f"would {action}", *(f"  reads   {source}" for source in sources)]
    lines += [f"  writes  {target}"] if target is not None else []
    lines += [f"  {name} = {value}" for name, value in values.items()]
    data = {"dry_run": True, "action": action, "reads": sources, "writes": target, "settings": values}
    return Outcome("\n".join(lines), data)


def check_model(name: str) -> None:
    """Refuse a local folder that holds no model; hub ids and GGUF files are taken as they are."""
    if os.path.isdir(name):
        from prune2vec.models.source import resolve_source

        resolve_source(name)


def check_texts(sources: Sequence[str], *, require_negative: bool = True) -> None:
    """Refuse a local source of triplets, or of pairs, whose first one cannot be read."""
    from prune2vec.data.reader import read_triplets

    for source in filter(os.path.exists, sources):
        next(read_triplets(source, require_negative=require_negative))


def launched_as(number: str) -> int:
    """Return which of several processes this is, by ``RANK`` or ``LOCAL_RANK``, as a launcher numbered them; 0 if it is alone."""
    return int(os.environ.get(number, "0")) if os.environ.get("WORLD_SIZE", "1") != "1" else 0


class Verb(click.Command):
    """A command whose function returns what is printed, with some of its options taken from settings classes."""

    def __init__(self, *args: Any, sections: Sequence[OptionGroup] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    @cached_property
    def section_options(self) -> list[GroupedOption]:
        """The options made from settings classes; made on first use, because that imports the classes."""
        return [option for section in self._sections for option in options_from(section)]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters, with those from settings classes."""
        return [*super().get_params(ctx), *self.section_options]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; a value from the settings file that does not fit is reported with the file's name.

        Raises:
            click.UsageError: A list is given twice, of which the first would be lost.
        """
        try:
            given = list(args)  # Parsing takes it to pieces.
            rest = super().parse_args(ctx, args)
            _, _, order = self.make_parser(ctx).parse_args(given)
            for param, times in Counter(order).items():
                if times > 1 and _takes_several(param):
                    raise click.UsageError(
                        f"{param.opts[-1]} is given {times} times; give all in one, separated by commas", ctx
                    )
            return rest
        except click.NoSuchOption as error:
            old = error.option_name
            new = RENAMED.get(old.lstrip("-").replace("-", "_"), "")
            if new in {param.name for param in self.get_params(ctx)}:
                raise click.NoSuchOption(
                    old, f"No such option '{old}': it is called '--{new.replace('_', '-')}' now.", ctx=ctx
                ) from error
            raise
        except click.BadParameter as error:
            name = error.param.name if error.param is not None else None
            if name is None or ctx.get_parameter_source(name) is not ParameterSource.DEFAULT_MAP:
                raise
            raise ConfigError(f"{ctx.meta['config'].where([name])}: {name}: {error.message}") from error

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb's function and print its outcome."""
        values = dict(ctx.params)
        as_json = values.pop("json")
        set_enabled(not values.pop("quiet"))
        repo = values.pop("push_to_hub", None)
        for section in self._sections:
            names = [str(option.name) for option in self.section_options if option.section is section]
            taken = {name: values.pop(name) for name in names}
            given = {name: taken[name] for name in names if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT}
            values[section.keyword] = section.load().build(given, where=ctx.command_path)
        assert self.callback is not None
        if repo is not None:
            from prune2vec.exporting.hub import check_push, push_folder

            check_push(repo)
        ctx.meta[WORKING] = True
        result: Printable = ctx.invoke(self.callback, **values)
        if repo is not None and not values["dry_run"]:
            result = Uploaded(result, push_folder(values["output"], repo))
        ctx.meta[WORKING] = False
        # No control character of a text or a name goes to the terminal as it is.
        click.echo(shown_json(result.to_json()) if as_json else shown_lines(result.render()))
        if getattr(result, "failed", False):
            ctx.exit(1)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under one heading a section, then those common to all verbs, then the keys of files alone."""
        own = [option for option in super().get_params(ctx) if isinstance(option, click.Option)]
        titled: dict[str, list[click.Option]] = {"Options": [option for option in own if option.name not in _COMMON]}
        for option in self.section_options:
            titled.setdefault(option.title, []).append(option)
        titled["Common to all verbs"] = [option for option in own if option.name in _COMMON]
        for title, options in titled.items():
            records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        keys = [str(option.name).replace("_", "-") for option in self.section_options if option.hidden]
        if keys:
            with formatter.section("Only in a --config file"):
                formatter.write_text(", ".join(keys))


def _takes_several(param: click.Parameter) -> bool:
    """Whether a value is a list, written with commas."""
    return isinstance(param.type, Listed | SourceNames)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the keys of a YAML file the defaults of this command line."""
    if path is None:
        return
    from prune2vec.experiments.yaml_file import read_yaml

    known = {str(param.name): param for param in ctx.command.get_params(ctx) if param.name not in ("config", "help")}
    ctx.meta["config"] = file = read_yaml(path)
    for name in file.values:
        if name not in known:
            raise ConfigError(f"{file.where([name])}: {unknown_key(name, known)}")
    ctx.default_map = {}
    for name, value in file.values.items():
        several = known[name].nargs == -1 or _takes_several(known[name])
        if isinstance(value, dict) or (isinstance(value, list) and not several):
            raise ConfigError(f"{file.where([name])}: {name}: expected one value, got {value!r}")
        # As it is written on a command line: there 1.9 and true are no whole numbers.
        ctx.default_map[name] = value if value is None or isinstance(value, list) else str(value)


def verb(
    *,
    example: str,
    sections: Sequence[OptionGroup] = (),
    writes: bool = True,
    pushes: bool = False,
    name: str | None = None,
) -> Callable[[Callable[..., Printable]], Verb]:
    """Return a decorator that makes a function a verb.

    Args:
        example: Command lines for the end of the help.
        sections: Settings classes whose fields become options.
        writes: Whether the verb takes ``--dry-run``.
        pushes: Whether the folder that it writes can be uploaded.
        name: The verb, if it is not the function's own name.
    """

    def show_traceback(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
        ctx.meta[DEBUG] = asked

    early: dict[str, Any] = {"is_eager": True, "expose_value": False}
    about = "YAML file with any of these settings; options on the command line override it."
    shared = [
        click.Option(["--config"], type=ExistingPath(), callback=_read_config, help=about, **early),
        click.Option(["--dry-run"], is_flag=True, help="Check the inputs, say what would be done, write nothing."),
        click.Option(["--json"], is_flag=True, help="Print the result as JSON."),
        click.Option(["--quiet"], is_flag=True, help="No progress on stderr."),
        click.Option(["--debug"], is_flag=True, callback=show_traceback, help="Show an error's traceback.", **early),
    ]

    pushed = "Also upload the folder to this repository of the Hugging Face hub, which is made, private, if it is not there."
    push = click.Option(["--push-to-hub"], metavar="REPO", help=pushed)

    def decorate(function: Callable[..., Printable]) -> Verb:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines())
        made = click.command(name, cls=Verb, sections=sections, epilog=epilog)(function)
        made.params += [push] if pushes else []
        made.params += [option for option in shared if writes or option.name != "dry_run"]
        return made

    return decorate
