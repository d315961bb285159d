"""The program as a whole: its verbs, exit codes, and how fast and quietly it starts."""

from __future__ import annotations

import os
import pkgutil
import platform
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click
import pytest

from prune2vec.cli import verbs
from prune2vec.cli.app import _FILE_OF, FAILED, INTERRUPTED, USAGE, VERBS, main, program
from prune2vec.cli.verb import Verb
from tests.cli.conftest import Cli

HEAVY = ("torch", "transformers", "sentence_transformers", "datasets", "mteb", "matplotlib", "pandas", "numpy", "pydantic")


def every_verb() -> list[Verb]:
    context = click.Context(program)
    return [command for name in VERBS if isinstance(command := program.get_command(context, name), Verb)]


def test_every_file_is_a_verb_and_every_verb_a_file() -> None:
    files = {module.name for module in pkgutil.iter_modules(verbs.__path__)}
    assert files == {_FILE_OF.get(first, first) for first in (name.split()[0] for name in VERBS)}
    assert len(every_verb()) == len(VERBS)


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    probe = f"""
import sys
from prune2vec.cli.app import entry
sys.argv = ["prune2vec", "--help"]
try:
    entry()
except SystemExit as done:
    assert not done.code, done.code
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(f"loaded {{loaded}}" if loaded else 0)
"""
    times = []
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.returncode == 0, done.stderr
    # Of the processor's time the best of three: what the code costs, not what else the machine is doing.
    assert min(times) < 0.5


@pytest.mark.parametrize("name", VERBS)
def test_help_of_every_verb(cli: Cli, name: str) -> None:
    ran = cli(*name.split(), "--help")
    assert ran.code == 0, ran.err
    assert "Example:" in ran.out
    assert f"prune2vec {name}" in ran.out.split("Example:")[1], "the example shows the verb itself"
    assert "--json" in ran.out
    assert "--quiet" in ran.out
    assert "--config" in ran.out


def test_verbs_that_write_have_a_dry_run() -> None:
    for verb in every_verb():
        names = {parameter.name for parameter in verb.params}
        assert ("dry_run" in names) == ("output" in names), verb.name


def test_every_option_says_what_it_is() -> None:
    context = click.Context(program)
    silent = [
        f"{verb.name} {option.opts[0]}"
        for verb in every_verb()
        for option in verb.get_params(context)
        if isinstance(option, click.Option) and not option.help
    ]
    assert not silent


def test_no_option_twice() -> None:
    context = click.Context(program)
    for verb in every_verb():
        names = [name for option in verb.get_params(context) for name in (*option.opts, *option.secondary_opts)]
        assert len(names) == len(set(names)), verb.name


def test_nothing_given_prints_the_help(cli: Cli) -> None:
    ran = cli()
    assert ran.code == 0
    assert "Usage: prune2vec" in ran.out


def test_version(cli: Cli) -> None:
    import prune2vec

    assert cli("--version").out == f"prune2vec {prune2vec.__version__}\n"


def test_versions_of_all_that_matters(cli: Cli) -> None:
    first, python, *packages = cli("--version", "--verbose").out.splitlines()
    assert cli("--verbose", "--version").out.splitlines() == [first, python, *packages]
    assert first == cli("--version").out.strip()
    assert python.startswith(f"python {platform.python_version()} (")
    found = {name: rest for name, _, rest in (line.partition(" ") for line in packages)}
    assert {"torch", "transformers", "sentence-transformers", "peft", "mteb"} <= set(found)
    assert not {"pytest", "ruff", "prune2vec"} & set(found)
    assert re.fullmatch(rf"{re.escape(version('transformers'))} \(tested: .*>=5.*\)", found["transformers"])


def test_an_extra_that_is_not_there_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_ours(name: str) -> str:
        if name != "prune2vec":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("importlib.metadata.version", only_ours)
    out = cli("--version", "--verbose").out
    assert re.search(r"^mteb not installed; pip install 'prune2vec\[eval\]' \(tested: ", out, re.MULTILINE)
    assert re.search(r"^torch not installed; pip install 'prune2vec' \(tested: ", out, re.MULTILINE)


def test_verbose_alone_is_no_command(cli: Cli) -> None:
    assert "--verbose goes with --version" in cli("--verbose", "methods").err


@pytest.mark.parametrize("package", ["torch", "transformers", "numpy", "pydantic"])
def test_a_package_that_is_missing_is_one_line(tmp_path: Path, package: str) -> None:
    probe = f"import sys; sys.modules[{package!r}] = None; from prune2vec.cli.app import entry; entry()"
    (tmp_path / "triplets.jsonl").write_text('{"anchor": "a", "positive": "b", "negative": "c"}\n', encoding="utf-8")
    words = ["profile", "nothing", "--texts", "triplets.jsonl", "-o", "profile.json"]
    (tmp_path / "nothing").mkdir()
    done = subprocess.run([sys.executable, "-c", probe, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the installation is not whole: ")
    assert package in line
    assert line.endswith("pip install prune2vec brings what it needs, prune2vec --version --verbose lists what is there")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["evalute", "x"], "did you mean 'evaluate'?"),
        (["plan", "shwo", "plan.json"], "did you mean 'plan show'?"),
        (["prfile"], "did you mean 'profile'?"),
        (["--hlep"], "--hlep"),
        (["profile", "gpt2", "--texs", "x"], "--texts"),
        (["plan", "profile.json", "--methd", "depth"], "--method"),
        (["init", "--outptu", "x"], "--output"),
        (["profile"], "MODEL"),
        (["prune", "gpt2"], "PLAN"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(cli: Cli, profile_file: Path, words: list[str], hint: str) -> None:
    ran = cli(*words)
    assert ran.code == USAGE
    assert hint in ran.err
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.out == ""


def test_one_process_of_a_machine_tells_what_is_wrong_with_the_options(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert cli("prfile").err.startswith("error: "), "nobody started several"
    monkeypatch.setenv("WORLD_SIZE", "2")
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    ran = cli("prfile")
    assert (ran.code, ran.err, len(waited)) == (USAGE, "", 1)


def test_underscores_do_for_dashes(cli: Cli, profile_file: Path) -> None:
    ran = cli("plan", profile_file, "--method", "l3prune", "--max_layers", "4", "--dry_run")
    assert ran.code == 0, ran.err


def test_interrupt_is_one_line_and_130(
    cli: Cli, profile_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = program.get_command(click.Context(program), "plan")
    assert plan is not None

    def interrupted(**values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan, "callback", interrupted)
    assert main(["plan", str(profile_file)]) == INTERRUPTED
    assert capsys.readouterr().err.count("\n") == 1


class Panic(BaseException):
    """What a panic of a library written in Rust looks like."""


ESCAPED = [
    (ValueError("shapes differ:\n[2, 3]\nand more"), "ValueError: shapes differ: [2, 3];"),
    (KeyError("rope"), "KeyError: 'rope';"),
    (OSError(36, "File name too long", "x" * 9000), "OSError: [Errno 36] File name too long: 'xxx"),
    (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum recursion depth exceeded;"),
    (MemoryError(), "MemoryError;"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "UnicodeDecodeError: 'utf-8' codec"),
    (Panic("called `Option::unwrap()`"), "Panic: called `Option::unwrap()`;"),
]


@pytest.mark.parametrize(("error", "said"), ESCAPED, ids=[type(error).__name__ for error, _ in ESCAPED])
def test_what_escapes_is_one_line_that_says_what_was_done(
    cli: Cli, profile_file: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    def stumble(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("prune2vec.settings.read_json", stumble)
    ran = cli("plan", profile_file)
    assert (ran.code, ran.out) == (FAILED, "")
    assert ran.err.startswith("error: plan stopped in prune2vec.settings: ") and said in ran.err
    assert ran.err.endswith("…\n" if len(ran.err) > 2000 else "; run again with --debug for the traceback\n")
    assert ran.err.count("\n") == 1
    debugged = cli("plan", profile_file, "--debug")
    assert debugged.code == FAILED and debugged.err.startswith("Traceback") and debugged.err.endswith(ran.err)


def test_debug_shows_where_an_error_of_ours_came_from(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    ran = cli("plan", "bad.json", "--debug")
    assert ran.code == FAILED
    assert "JSONDecodeError" in ran.err and ran.err.splitlines()[-1].startswith("error: bad.json:1: not JSON")


def test_a_name_that_is_no_text_is_printed_escaped() -> None:
    done = subprocess.run([sys.executable, "-m", "prune2vec", "methods", b"\xff"], capture_output=True, check=False)
    assert done.returncode == USAGE and done.stderr.count(b"\n") == 1 and b"\\udcff" in done.stderr


def test_reader_of_a_pipe_may_leave() -> None:
    command = f"{sys.executable} -m prune2vec --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGPIPE, 128 + signal.SIGPIPE)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("to", "code", "said"),
    [("&-", 0, ""), ("/dev/full", FAILED, "error: the result cannot be printed: No space left on device\n")],
)
@pytest.mark.parametrize("words", ["methods", "--help"])
def test_a_closed_and_a_full_output(words: str, to: str, code: int, said: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m prune2vec {words} >{to}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, said)


def test_a_broken_pipe_at_work_is_an_error_and_while_printing_is_none(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise BrokenPipeError("a worker has left")

    with monkeypatch.context() as patch:
        patch.setattr("prune2vec.registry.Registry.get", broken)
        ran = cli("methods")
    assert ran.code == FAILED
    assert "BrokenPipeError: a worker has left" in ran.err
    monkeypatch.setattr("prune2vec.cli.verb.click.echo", broken)
    with pytest.raises(BrokenPipeError):
        main(["methods"])
