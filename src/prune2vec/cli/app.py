"""The program: finds the verb, runs it, and turns what can go wrong into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from prune2vec.cli.silence import prepare_environment
from prune2vec.errors import Prune2vecError, did_you_mean, reason_of
from prune2vec.shown import shown

VERBS = (
    "demo",
    "run",
    "init",
    "mine",
    "mine negatives",
    "profile",
    "plan",
    "plan show",
    "slim",
    "prune",
    "train",
    "evaluate",
    "encode",
    "search",
    "export",
    "compare",
    "methods",
    "cache",
    "cache clear",
)
"""In the order of the pipeline. A verb of two words wins over its first word: ``prune2vec plan show FILE``."""

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


class Program(click.Group):
    """The group of all verbs; a verb's file is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the pipeline."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, or None if there is none of that name."""
        if cmd_name not in VERBS:
            return None
        name = cmd_name.replace(" ", "_")
        command = getattr(importlib.import_module(f"prune2vec.cli.verbs.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb at the start of ``args``: the longest one that fits."""
        self._refuse_misspelt_pair(ctx, args)
        for words in (2, 1):
            name = " ".join(args[:words])
            command = self.get_command(ctx, name)
            if command is not None:
                return name, command, args[words:]
        if args[0].startswith("-"):
            ctx.fail(f"no such option: {args[0]}")
        ctx.fail(f"no verb is called {args[0]!r}{did_you_mean(args[0], VERBS)}")

    def _refuse_misspelt_pair(self, ctx: click.Context, args: list[str]) -> None:
        """Take ``plan shwo x`` for a misspelt ``plan show``, not for a plan from a file called shwo."""
        pair = " ".join(args[:2])
        known = [name for name in VERBS if " " in name and name.split()[0] == args[0]]
        if pair not in known and difflib.get_close_matches(pair, known, cutoff=0.8) and not os.path.exists(args[1]):
            ctx.fail(f"no verb is called {pair!r}{did_you_mean(pair, known)}")


_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
        from prune2vec.cli.versions import versions

        listed = versions()
        click.echo(listed if ctx.params["verbose"] else listed.partition("\n")[0])
        ctx.exit()


@click.group(cls=Program, context_settings=_CONTEXT, subcommand_metavar="VERB ...")
@click.option("--verbose", is_flag=True, is_eager=True, help="With --version: the versions of all that prune2vec stands on.")
@click.option("--version", is_flag=True, expose_value=False, callback=_show_version, help="Show the version and exit.")
def program(verbose: bool) -> None:
    """Turn a decoder-only LLM into a small, fast text encoder.

    Every verb reads files and writes files; `prune2vec VERB --help` has an example of each.
    """
    if verbose:
        raise click.UsageError("--verbose goes with --version")


def main(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 our error, 2 usage, 130 interrupted."""
    try:
        with program.make_context("prune2vec", list(arguments) or ["--help"]) as context:
            program.invoke(context)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        return _report(_usage_message(error), USAGE)
    except Prune2vecError as error:
        return _report("; ".join([str(error), *_notes(error)]), FAILED)
    except ImportError as error:
        remedy = "pip install prune2vec brings what it needs, prune2vec --version --verbose lists what is there"
        return _report(f"the installation is not whole: {reason_of(error)}; {remedy}", FAILED)
    except (KeyboardInterrupt, click.Abort) as error:
        return _report("; ".join(["interrupted", *(_notes(error) or ["run the same command again"])]), INTERRUPTED)
    return DONE


def _notes(error: BaseException) -> list[str]:
    """Return what was added to an error on its way: where something is kept from which the same command goes on."""
    return list(getattr(error, "__notes__", ()))


def _usage_message(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "prune2vec"
    message = error.format_message().rstrip(".")
    return f"{message[:1].lower()}{message[1:]} (see {path} --help)"


def _report(message: str, code: int) -> int:
    click.echo(f"error: {shown(message)}", err=True)
    return code


def entry() -> NoReturn:
    """Run the command line of this process."""
    prepare_environment()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has left (``| head``): nothing is wrong, and nothing more can be written.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    sys.exit(code)
