"""A verb of the command line: the options that all verbs share, a settings file, and one result printed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from prune2vec.cli.options import OptionGroup
from prune2vec.cli.outcome import Outcome
from prune2vec.errors import ConfigError
from prune2vec.paths import as_path, must_exist
from prune2vec.progress import set_enabled

if TYPE_CHECKING:
    from prune2vec.cli.options import GroupedOption


DEBUG = "prune2vec.debug"
"""Key of a command line's ``meta``: whether the traceback of an error is shown."""


class Verb(click.Command):
    """A command whose function returns an ``Outcome``, with some of its options taken from settings classes."""

    def __init__(self, *args: Any, sections: Sequence[OptionGroup] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    @cached_property
    def section_options(self) -> list[GroupedOption]:
        """The options made from settings classes; made on first use, because that imports the classes."""
        from prune2vec.cli.options import options_from

        return [option for section in self._sections for option in options_from(section)]

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return all parameters, with those from settings classes."""
        own = super().get_params(ctx)
        return [*own, *self.section_options]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; a value from the settings file that does not fit is reported with the file's name."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from prune2vec.settings import RENAMED

            today = RENAMED.get(error.option_name.lstrip("-").replace("-", "_"))
            if today is None or today not in {param.name for param in self.get_params(ctx)}:
                raise
            flag = "--" + today.replace("_", "-")
            raise click.UsageError(f"no such option: {error.option_name}; it is called {flag} now", ctx) from error
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
        for section in self._sections:
            names = [option.name for option in self.section_options if option.section is section]
            taken = {name: values.pop(name) for name in names}
            given = {name: value for name, value in taken.items() if _is_given(ctx, name)}
            values[section.keyword] = section.load().build(given, where=ctx.command_path)
        assert self.callback is not None
        outcome: Outcome = ctx.invoke(self.callback, **values)
        click.echo(outcome.printed(as_json=as_json))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under one heading a section."""
        shared = [option for option in super().get_params(ctx) if isinstance(option, click.Option)]
        _write_options("Options", shared, ctx, formatter)
        for section in self._sections:
            options = [option for option in self.section_options if option.section is section]
            _write_options(section.title, options, ctx, formatter)


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not ParameterSource.DEFAULT


def _write_options(title: str, options: Sequence[click.Option], ctx: click.Context, formatter: click.HelpFormatter) -> None:
    records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
    if records:
        with formatter.section(title):
            formatter.write_dl(records)


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    """Make the keys of a YAML file the defaults of this command line."""
    if path is None:
        return
    from prune2vec.experiments.yaml_file import read_yaml
    from prune2vec.settings import what_was_meant

    known = {str(param.name): param for param in ctx.command.get_params(ctx) if param.name not in ("config", "help")}
    file = read_yaml(must_exist(as_path(path)))
    for name in file.values:
        if name not in known:
            raise ConfigError(f"{file.where([name])}: unknown key {name!r}{what_was_meant(name, known)}")
    ctx.meta["config"] = file
    ctx.default_map = {name: _worded(value, known[name], file.where([name])) for name, value in file.values.items()}


def _show_traceback(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    ctx.meta[DEBUG] = asked


def _worded(value: Any, param: click.Parameter, where: str) -> Any:
    """Return a value of a settings file as it is written on a command line: there 1.9 and true are no whole numbers."""
    several = param.nargs == -1 or param.type.name == "list"
    if isinstance(value, dict) or (isinstance(value, list) and not several):
        raise ConfigError(f"{where}: {param.name}: expected one value, got {value!r}")
    return value if value is None or isinstance(value, list) else str(value)


def verb(
    *, example: str, sections: Sequence[OptionGroup] = (), writes: bool = True, name: str | None = None
) -> Callable[[Callable[..., Outcome]], Verb]:
    """Return a decorator that makes a function a verb.

    Args:
        example: Command lines for the end of the help.
        sections: Settings classes whose fields become options.
        writes: Whether the verb writes something, and so takes ``--dry-run``.
        name: The verb, if it is not the function's own name.
    """

    def decorate(function: Callable[..., Outcome]) -> Verb:
        epilog = "\b\nExample:\n" + "\n".join(f"  {line}" for line in example.strip().splitlines())
        made = click.command(name, cls=Verb, sections=sections, epilog=epilog)(function)
        made.params += _shared_options(writes)
        return made

    return decorate


def _shared_options(writes: bool) -> list[click.Parameter]:
    dry_run = click.Option(["--dry-run"], is_flag=True, help="Check the inputs, say what would be done, write nothing.")
    config = click.Option(
        ["--config"],
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="YAML file with any of these settings; options on the command line override it.",
    )
    return [
        config,
        *([dry_run] if writes else []),
        click.Option(["--json"], is_flag=True, help="Print the result as JSON."),
        click.Option(["--quiet"], is_flag=True, help="No progress on stderr."),
        click.Option(
            ["--debug"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_show_traceback,
            help="Show an error's traceback.",
        ),
    ]
