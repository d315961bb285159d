"""Check that README and docs tell the truth: their commands run or at least parse, their generated parts are current.

    python scripts/check_docs.py          # check
    python scripts/check_docs.py --fix    # write the generated parts anew
    python scripts/check_docs.py --no-run # all but running commands

Every ``prune2vec`` command in a fenced ``bash`` block must be one that the command line accepts. A ``bash`` or ``python``
block under the comment ``<!-- run -->`` is run, one after the other, in a folder that holds a tiny random model (``model/``),
``triplets.jsonl`` and ``heldout.jsonl``. The comment may put small things in the place of big ones, as literal text:

    <!-- run smollm2 => model; --steps 200 => --steps 4 -->

Generated are the table between ``<!-- methods -->`` and ``<!-- /methods -->``, the text between ``<!-- demo -->`` and
``<!-- /demo -->`` (from benchmarks/results/demo.json, which scripts/demo_record.py writes), the table between
``<!-- table NAME.json -->`` (or ``NAME.json#brief``) and ``<!-- /table -->``, which a benchmark left in that result, the
recipe of ``prune2vec init`` between ``<!-- recipe -->`` and ``<!-- /recipe -->``, and the whole of docs/cli.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from prune2vec.cli.app import VERBS, prepare_environment, program  # noqa: E402
from prune2vec.cli.app import main as run_verb  # noqa: E402
from prune2vec.cli.verbs.methods import methods  # noqa: E402
from prune2vec.experiments.comparison import TextTable  # noqa: E402
from prune2vec.experiments.recipe import init_recipe  # noqa: E402
from prune2vec.files import read_json  # noqa: E402
from scripts import demo_record  # noqa: E402

_FENCE = re.compile(r"^```(?P<language>\w*)\s*$")
_RUN = re.compile(r"^<!-- run\b(?P<changes>.*)-->\s*$")
_GENERATED = re.compile(
    r"(?P<open><!-- (?P<what>methods|demo|table|recipe)(?: (?P<of>[\w-]+\.json(?:#\w+)?))? -->\n).*?(?P<close><!-- /(?P=what) -->)",
    re.DOTALL,
)
_RUN_LIMIT_S = 600
_COMPLETION = """\
## Completion

A shell completes verbs, options and files after one line in its start-up file:

| shell | file | line |
|---|---|---|
| bash 4.4 or newer | `~/.bashrc` | `eval "$(_PRUNE2VEC_COMPLETE=bash_source prune2vec)"` |
| zsh | `~/.zshrc` | `eval "$(_PRUNE2VEC_COMPLETE=zsh_source prune2vec)"` |
| fish | `~/.config/fish/completions/prune2vec.fish` | `_PRUNE2VEC_COMPLETE=fish_source prune2vec \\| source` |"""
_CLIENT = """#!{python} -IS
import os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({at!r})
    socket.send_fds(connection, ["\\0".join([os.getcwd(), *sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit(int(connection.recv(16)))
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of code in a page.

    Attributes:
        page: The file.
        line: Line of its first line of code, from 1.
        language: ``bash``, ``python``, ...
        code: Its text.
        changes: Replacements to make before it is run; None when it is not to be run.
    """

    page: Path
    line: int
    language: str
    code: str
    changes: tuple[tuple[str, str], ...] | None


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    directive: str | None = None
    language: str | None = None
    start = 0
    code: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line.strip())
        if language is not None and line.strip() == "```":
            yield Block(page, start, language, "\n".join(code), _changes(directive))
            language = directive = None
        elif language is not None:
            code.append(line)
        elif fence:
            language, start, code = fence["language"], number + 1, []
        elif line.strip():
            found = _RUN.match(line.strip())
            directive = found["changes"] if found else None


def _changes(directive: str | None) -> tuple[tuple[str, str], ...] | None:
    if directive is None:
        return None
    pairs = [part.partition("=>") for part in directive.split(";") if part.strip()]
    return tuple((old.strip(), new.strip()) for old, _, new in pairs)


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, words) of every prune2vec command of a bash block."""
    line, open_line = block.line, ""
    for text in block.code.splitlines():
        joined = open_line + text
        if joined.endswith("\\"):
            open_line = joined[:-1]
        else:
            open_line = ""
            words = shlex.split(joined, comments=True)
            if words and words[0].removeprefix("$").strip() == "prune2vec":
                yield line, words[1:]
        line += 1


def fault_of(words: Sequence[str]) -> str | None:
    """Return what is wrong with a command line (without the leading ``prune2vec``), or None; nothing is run or looked up."""
    root = click.Context(program, info_name="prune2vec", **program.context_settings)
    if not words or words[0] in ("--help", "--version"):
        return None
    try:
        _, command, rest = program.resolve_command(root, list(words))
        assert command is not None
        context = click.Context(command, info_name=words[0], parent=root)
        given, left, _ = command.make_parser(context).parse_args(list(rest))
        if set(rest) & set(context.help_option_names):
            return None
        _check_values(command, context, given)
    except click.ClickException as error:
        return error.format_message()
    return f"unexpected argument {left[0]}" if left else None


def _check_values(command: click.Command, context: click.Context, given: dict[str, object]) -> None:
    for parameter in command.get_params(context):
        value = given.get(str(parameter.name))
        missing = not isinstance(value, str | bool | list | tuple) or value == ()
        if not missing and getattr(parameter, "hidden", False):
            raise click.UsageError(f"{parameter.opts[0]} is no option, but a key of a --config file", context)
        if missing and parameter.required and "config" not in given:
            raise click.MissingParameter(ctx=context, param=parameter)
        # Paths and models need not be there; numbers and choices must fit.
        if not missing and isinstance(parameter.type, click.Choice | click.types.FloatParamType | click.types.IntParamType):
            parameter.type_cast_value(context, value)


def parse_faults(pages: Sequence[Path]) -> list[str]:
    """Return one line for every command in the pages that the command line would refuse."""
    return [
        f"{page}:{line}: prune2vec {' '.join(words)}: {fault}"
        for page in pages
        for block in blocks(page)
        if block.language == "bash"
        for line, words in commands(block)
        if (fault := fault_of(words)) is not None
    ]


def run_faults(pages: Sequence[Path]) -> list[str]:
    """Run the blocks marked so, page by page, and return one message for every one that fails."""
    # What all verbs import, once: what is run is forked from here.
    from prune2vec import encode, evaluate, prune, train  # noqa: F401

    found = []
    for page in pages:
        marked = [block for block in blocks(page) if block.changes is not None]
        if marked:
            with tempfile.TemporaryDirectory(prefix="check-docs-") as folder:
                prepare(Path(folder))
                found += [fault for block in marked if (fault := _run(block, Path(folder))) is not None]
    return found


def prepare(folder: Path) -> None:
    """Put the tiny model and the texts that the marked blocks use into ``folder``."""
    from tests.tiny import tiny_model, tiny_tokenizer

    # Long enough for the default settings, which the pages show.
    tiny_model("llama", causal_lm=True, max_position_embeddings=1024).save_pretrained(folder / "model")
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 1024
    tokenizer.save_pretrained(folder / "model")
    words = ("read", "write", "count", "sort", "merge", "split", "check", "load", "save", "draw")
    for name, size in (("triplets", 1400), ("heldout", 60)):
        rows = [
            {
                "anchor": f"how to {words[n % 10]} row {n} of {name}",
                "positive": f"To {words[n % 10]} row {n}, call {words[n % 10]}_{n} of {name}.",
                "negative": f"To {words[(n + 3) % 10]} column {n}, call {words[(n + 3) % 10]}_{n}.",
            }
            for n in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _run(block: Block, folder: Path) -> str | None:
    where = f"{block.page}:{block.line}"
    code = block.code
    for old, new in block.changes or ():
        if old not in code:
            return f"{where}: the run comment replaces {old!r}, which the block does not hold"
        code = code.replace(old, new)
    print(f"running {where}", flush=True)
    with tempfile.TemporaryFile("w+") as said:
        if block.language == "bash":
            status = _in_bash(code, folder, said.fileno())
        else:
            status = _forked(lambda: exec(code, {}), folder, [said.fileno()] * 3)
        said.seek(0)
        return f"{where}: exit {status}\n{said.read()}" if status else None


def _in_bash(code: str, folder: Path, said: int) -> int:
    """Run a block of bash, whose ``prune2vec`` commands are forks of this process, which has imported what they need already."""
    with tempfile.TemporaryDirectory(prefix="check-docs-bin-") as found, socket.socket(socket.AF_UNIX) as listener:
        client, at = Path(found, "prune2vec"), str(Path(found, "socket"))
        client.write_text(_CLIENT.format(python=sys.executable, at=at), encoding="utf-8")
        client.chmod(0o755)
        listener.bind(at)
        listener.listen()
        listener.settimeout(0.05)
        path = f"{found}{os.pathsep}{os.environ['PATH']}"
        shell = ["bash", "-euo", "pipefail", "-c", code]
        with subprocess.Popen(shell, cwd=folder, stdout=said, stderr=said, env={**os.environ, "PATH": path}) as running:
            while running.poll() is None:
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    with connection:
                        asked, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
                        cwd, *words = asked.decode().split("\0")
                        status = _forked(partial(run_verb, words), Path(cwd), streams)
                        connection.sendall(str(status).encode())
                        for stream in streams:
                            os.close(stream)
        return running.returncode


def _forked(work: Callable[[], int | None], folder: Path, streams: Sequence[int]) -> int:
    """Do a piece of work in a fork of this process, in ``folder`` and with these standard streams; return its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        signal.alarm(_RUN_LIMIT_S)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        status = work() or 0
    except SystemExit as request:
        status = int(request.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def methods_table() -> str:
    """Return the Markdown table of everything registered."""
    assert methods.callback is not None
    found: dict[str, dict[str, str]] = methods.callback().data
    rows = [f"| {kind} | `{name}` | {_cell(line)} |" for kind, parts in found.items() for name, line in parts.items()]
    return "\n".join(["| Kind | Name | What it does |", "|---|---|---|", *rows]) + "\n"


def _cell(line: str) -> str:
    return line.replace("``", "`").replace("|", "\\|")


def cli_page() -> str:
    """Return docs/cli.md: the help of every verb; options that several share are described where they come first."""
    first: dict[str, str] = {}
    parts = ["# The command line", "Written by `make docs` from `--help`; do not edit."]
    root = click.Context(program, info_name="prune2vec", terminal_width=100, **_without_width())
    parts.append(f"```text\n{program.get_help(root).strip()}\n```")
    parts.append(_COMPLETION)
    for name in VERBS:
        command = program.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root, terminal_width=100)
        shown = []
        for block in command.get_help(context).strip().split("\n\n"):
            title, _, options = block.partition(":\n")
            shared = options and title != "Options" and first.setdefault(block, name) != name
            shown.append(f"{title}: see {first[block]}" if shared else block)
        parts.append(f"## prune2vec {name}\n\n```text\n" + "\n\n".join(shown) + "\n```")
    return "\n\n".join(parts) + "\n"


def _without_width() -> dict[str, Any]:
    return {key: value for key, value in program.context_settings.items() if key != "max_content_width"}


def generated(pages: Sequence[Path], root: Path) -> dict[Path, str]:
    """Return what every page with generated parts should hold."""
    results = root / demo_record.RECORD.parent.relative_to(ROOT)
    parts: dict[str, Callable[[str], str]] = {
        "methods": lambda _: methods_table(),
        "demo": lambda _: demo_record.block(read_json(results / demo_record.RECORD.name)),
        "table": lambda of: table_of(results, of),
        "recipe": lambda _: f"\n```yaml\n{init_recipe().rstrip()}\n```\n\n",
    }
    wanted = {root / "docs" / "cli.md": cli_page()}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if _GENERATED.search(text):
            wanted[page] = _GENERATED.sub(
                lambda match: match["open"] + parts[match["what"]](match["of"]) + match["close"], text
            )
    return wanted


def table_of(results: Path, of: str) -> str:
    """Return a table that a benchmark left in its result as Markdown: that called ``table``, or as it is called after a ``#``."""
    name, _, key = of.partition("#")
    table = read_json(results / name)[key or "table"]
    return f"\n{TextTable(tuple(table['header']), tuple(map(tuple, table['rows']))).to_markdown()}\n\n"


def stale(pages: Sequence[Path], root: Path, *, fix: bool) -> list[str]:
    """Return one line for every page whose generated part is not current; with ``fix``, write them and return nothing."""
    wanted = generated(pages, root)
    old = [page for page, text in wanted.items() if not page.exists() or page.read_text(encoding="utf-8") != text]
    for page in old if fix else ():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(wanted[page], encoding="utf-8")
        print(f"wrote {page}")
    return [] if fix else [f"{page}: generated part is not current; run make docs" for page in old]


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Check (or fix) the pages and return the exit code."""
    assert __doc__ is not None
    prepare_environment()
    # A fork of a process whose OpenMP threads have begun to work would wait for them without end.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="write the generated parts")
    parser.add_argument("--no-run", action="store_true", help="do not run the marked blocks")
    options = parser.parse_args(arguments)
    pages = [
        page for page in (root / "README.md", root / "CONTRIBUTING.md", *sorted(root.glob("docs/**/*.md"))) if page.exists()
    ]
    found = stale(pages, root, fix=options.fix) + parse_faults(pages)
    if not (options.no_run or options.fix):
        found += run_faults(pages)
    print("\n".join(found) or "documentation: all true")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
