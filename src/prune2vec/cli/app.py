"""The program: finds the verb, runs it, and turns what can go wrong into one line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import io
import logging
import os
import platform
import re
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from prune2vec.cli.verb import DEBUG, WORKING, launched_as
from prune2vec.errors import Prune2vecError, did_you_mean, reason_of, shown

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
    "doctor",
    "compare",
    "methods",
)
"""In the order of the pipeline. A verb of two words wins over its first word: ``prune2vec plan show FILE``."""
_FILE_OF = {"demo": "run", "init": "run", "compare": "run"}
"""The file in ``verbs`` of those whose file is not called like their first word."""

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
# What keeps the libraries around us quiet, so that stderr holds our progress and nothing else.
_QUIET = {
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
LOGGERS = (
    "accelerate",
    "bitsandbytes",
    "bm25s",
    "datasets",
    "httpx",
    "huggingface_hub",
    "mteb",
    "peft",
    "sentence_transformers",
    "torch",
)
"""Their loggers speak only of errors."""
# As click names it: bash_source asks for the script of bash.
_COMPLETE = "_PRUNE2VEC_COMPLETE"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*])?\s*(?P<range>[^;]*)(?:;.*extra == .(?P<extra>\w+).)?")
_POLITE_S = 2.0
_LONGEST = 2000  # Characters of an error that are printed: what came may be of any length.


class Program(click.Group):
    """The group of all verbs; a verb's file is imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the pipeline."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, or None if there is none of that name."""
        if cmd_name not in VERBS:
            return None
        word = cmd_name.split()[0]
        module = importlib.import_module(f"prune2vec.cli.verbs.{_FILE_OF.get(word, word)}")
        command = getattr(module, cmd_name.replace(" ", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb at the start of ``args``: the longest one that fits."""
        # ``plan shwo x`` is a misspelt ``plan show``, not a plan from a file called shwo.
        pair = " ".join(args[:2])
        known = [name for name in VERBS if " " in name and name.split()[0] == args[0]]
        if pair not in known and difflib.get_close_matches(pair, known, cutoff=0.8) and not os.path.exists(args[1]):
            ctx.fail(f"no verb is called {pair!r}{did_you_mean(pair, known)}")
        for words in (2, 1):
            name = " ".join(args[:words])
            command = self.get_command(ctx, name)
            if command is not None:
                return name, command, args[words:]
        if args[0].startswith("-"):
            ctx.fail(f"no such option: {args[0]}")
        ctx.fail(f"no verb is called {args[0]!r}{did_you_mean(args[0], VERBS)}")


_CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "max_content_width": 110,
    "token_normalize_func": lambda token: token.replace("_", "-"),
}


def versions() -> str:
    """Return one line a package that prune2vec needs: its version, or that it is not there, and the range that was tested."""
    # A third of what the program imports before it knows its verb.
    from importlib.metadata import PackageNotFoundError, requires, version

    system = f"{platform.system()} {platform.machine()}"
    lines = [f"prune2vec {version('prune2vec')}", f"python {platform.python_version()} ({system})"]
    for line in requires("prune2vec") or ():
        found = _REQUIREMENT.match(line)
        assert found is not None
        name, wanted, extra = found["name"], found["range"].strip(), found["extra"]
        if extra in ("all", "dev"):
            continue
        try:
            there = version(name)
        except PackageNotFoundError:
            there = f"not installed; pip install 'prune2vec{f'[{extra}]' if extra else ''}'"
        lines.append(f"{name} {there} (tested: {wanted})")
    return "\n".join(lines)


def _show_version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    if asked:
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
    """Run one command line and return its exit code: 0 done, 1 an error, 2 usage, 130 interrupted.

    Whatever goes wrong is one line on stderr; ``--debug`` puts the traceback before it.

    Raises:
        OSError: The result cannot be printed; a BrokenPipeError where its reader has left.
    """
    context = None
    try:
        with program.make_context("prune2vec", list(arguments) or ["--help"]) as context:
            program.invoke(context)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        at, said = getattr(error, "ctx", None), error.format_message().rstrip(".")
        return _report(
            f"{said[:1].lower()}{said[1:]} (see {at.command_path if at else 'prune2vec'} --help)", USAGE, working=False
        )
    except (KeyboardInterrupt, click.Abort) as error:
        return _report("; ".join(["interrupted", *getattr(error, "__notes__", ["run the same command again"])]), INTERRUPTED)
    except SystemExit:
        raise
    except BaseException as error:  # A panic of a library that is written in Rust is no Exception.
        working = context is not None and bool(context.meta.get(WORKING))
        # Of a file it would have the name; what has none is the output.
        if isinstance(error, OSError) and error.filename is None and not working:
            raise
        if context is not None and context.meta.get(DEBUG):
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        said = str(error) if isinstance(error, Prune2vecError) else _unforeseen(error, context)
        # Notes say where something is kept from which the same command resumes.
        return _report("; ".join([said, *getattr(error, "__notes__", ())]), FAILED, working=working)
    return DONE


def _unforeseen(error: BaseException, context: click.Context | None) -> str:
    """Say what was being done, and where, when an error came that nobody has put into words."""
    if isinstance(error, ImportError):
        remedy = "pip install prune2vec brings what it needs, prune2vec --version --verbose lists what is there"
        return f"the installation is not whole: {reason_of(error)}; {remedy}"
    modules = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    place = next((name for name in reversed(modules) if name.startswith("prune2vec.") and ".cli." not in name), "")
    verb = context.invoked_subcommand if context is not None else None
    kind, reason = type(error).__name__, reason_of(error)
    said = reason if reason.startswith(kind) else f"{kind}: {reason}"
    return f"{verb or 'prune2vec'} stopped{f' in {place}' if place else ''}: {said}; run again with --debug for the traceback"


def _report(message: str, code: int, *, working: bool = True) -> int:
    # What is wrong with the options is told once, not by each of the processes that a launcher started on this machine; it
    # ends them all when one ends, so the others wait for the one that tells.
    if working or launched_as("LOCAL_RANK") == 0:
        with suppress(BrokenPipeError):  # The exit code still says it.
            click.echo(f"error: {shown(message, _LONGEST)}", err=True)
    else:
        time.sleep(_POLITE_S)
    return code


def prepare_environment() -> None:
    """Set what other libraries read when they are imported; call it before any of them is. The user's own settings win."""
    # Spinning OpenMP threads cost 5 to 14 times the run time as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def entry() -> NoReturn:
    """Run the command line of this process."""
    prepare_environment()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name that is no text (bytes of another encoding) is printed escaped, as on stderr.
        sys.stdout.reconfigure(errors="backslashreplace")
    if asked := os.environ.get(_COMPLETE):
        # Prints click's script for a shell, or what would complete a line of it; one that is wrong already has nothing.
        from click.shell_completion import shell_complete

        try:
            sys.exit(shell_complete(program, {}, "prune2vec", _COMPLETE, asked))
        except click.UsageError:
            sys.exit(FAILED)
    try:
        code = main(sys.argv[1:])
        if sys.stdout is not None:  # As it is where it was closed.
            sys.stdout.flush()
    except OSError as error:
        # The reader of a pipe has left (``| head``): nothing is wrong. In either case nothing more can be written.
        left = isinstance(error, BrokenPipeError)
        code = DONE if left else _report(f"the result cannot be printed: {error.strerror or error}", FAILED)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
