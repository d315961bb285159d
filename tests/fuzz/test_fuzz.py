"""Whatever is damaged or typed: one line and 1 or 2, or the right result; no hang, nothing left half-written."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import pytest

from prune2vec import progress
from prune2vec.cli.app import DONE, FAILED, USAGE, VERBS, main, program
from tests.fuzz.targets import LOADED, OPTIONS, RECORDS, Target, prepare

LIMIT_S = float(os.environ.get("FUZZ_LIMIT_S", "20"))
QUICK, LONG = 60, 1700
WORDS = (
    *("nan", "inf", "-inf", "1e400", str(2**70), str(-(2**70)), "-1", "0", "1", "1.9", "1e-99999999", "9" * 5000, "", " ", "x"),
    *(
        "x" * 300,
        "x" * 5000,
        "a\0b",
        "\ud800",
        "é" * 200,
        "\u202e",
        "~nobody-of-that-name/x",
        "/dev/null",
        "true",
        "none",
        "auto",
    ),
    *(
        "[1]",
        "{}",
        "1,2",
        ",",
        "50%",
        "150%",
        "8M",
        "3/0",
        "all",
        "cuda:99999999999999999999",
        "../..",
        ".",
        "plan.json",
        "small",
    ),
)


class TooLong(BaseException):
    """A try ran over its time."""


@dataclass
class Tally:
    """What came of the tries.

    Attributes:
        outcomes: Count by exit code, and of what was wrong.
        wrong: What was wrong, with the seed and the command line that show it again.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, code: object, problem: str, what: str) -> None:
        self.outcomes[f"exit {code}"] += 1
        if problem:
            self.outcomes["wrong"] += 1
            self.wrong.append(f"{what}: {problem}")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    prepare(folder)
    return folder


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(words: Sequence[str]) -> tuple[object, str, float]:
    """Return exit code (or what escaped), stderr and seconds of a command line in this process."""
    err, start = io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), warnings.catch_warnings(), limited():
        warnings.simplefilter("ignore")
        try:
            code: object = main(words)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    progress.set_enabled(True)
    return code, err.getvalue(), time.monotonic() - start


def problem_of(code: object, err: str, seconds: float, left: set[Path]) -> str:
    """Return what is wrong with how a command line ended, or nothing."""
    lines = [line for line in err.splitlines() if line.strip()]
    if seconds >= LIMIT_S:
        return f"took {seconds:.0f} s"
    if code not in (DONE, FAILED, USAGE):
        return f"escaped: {code}"
    if "Traceback" in err or " stopped in " in err or " stopped: " in err:
        return f"not foreseen: {err.strip()[:300]}"
    if code != DONE and (len(lines) != 1 or not lines[0].startswith("error: ")):
        return f"{len(lines)} lines: {err.strip()[:300]}"
    if code != DONE and left:
        return f"left behind: {sorted(map(str, left))[:3]}"
    half = [path for path in left if ".partial-" in path.name]
    return f"half-written: {half[:3]}" if half else ""


def one_try(target: Target, good: Path, folder: Path, seed: int, tally: Tally, *, extra: bool = False) -> None:
    draw = random.Random(f"{target.file} {target.command} {seed}")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder)
    os.chdir(folder)
    words = draw.choice(list(target.command)).split()
    if extra:
        words += options(words, draw)
    if target.file:
        target.damage(folder / target.file, draw)
    before = set(folder.rglob("*"))
    code, err, seconds = run([*words, "--quiet"])
    problem = problem_of(code, err, seconds, set(folder.rglob("*")) - before)
    if not problem and code == DONE and target.file:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            problem = target.oracle(folder, folder / target.file, good / target.file)
    tally.add(code, problem, f"{target.file} seed {seed}: {' '.join(words)[:200]!r}")


def options(words: Sequence[str], draw: random.Random) -> list[str]:
    """Return one or two options of the verb, each with a strange word."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    context = click.Context(program)
    verb: Any = program.get_command(context, name)
    known = [one for one in verb.get_params(context) if isinstance(one, click.Option) and one.name not in ("help", "debug")]
    found: list[str] = []
    for option in draw.sample(known, min(len(known), draw.choice((1, 1, 2)))):
        found += [draw.choice(option.opts)] if option.is_flag else [option.opts[0], draw.choice(WORDS)]
    return found


def fuzz(
    targets: Sequence[Target], good: Path, folder: Path, tries: int, monkeypatch: pytest.MonkeyPatch, **kind: bool
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PRUNE2VEC_CACHE", str(folder / "cache"))
    tally = Tally()
    for number in range(tries):
        one_try(targets[number % len(targets)], good, folder / "try", number // len(targets), tally, **kind)
    print(f"{tries} tries: {dict(sorted(tally.outcomes.items()))}")
    assert sum(count for name, count in tally.outcomes.items() if name.startswith("exit")) == tries
    assert not tally.wrong, "\n".join([f"{len(tally.wrong)} of {tries}", *tally.wrong[:40]])


@pytest.mark.parametrize("tries", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])
def test_records_and_recipes(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    fuzz(RECORDS, good, tmp_path, tries, monkeypatch)


@pytest.mark.parametrize("tries", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])
def test_options_of_every_verb(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    fuzz(OPTIONS, good, tmp_path, tries, monkeypatch, extra=True)


@pytest.mark.parametrize("tries", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])
def test_models_and_encoders(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    fuzz(LOADED, good, tmp_path, tries, monkeypatch)


def test_what_is_wrong_is_seen() -> None:
    assert problem_of(DONE, "", 0.1, {Path("out")}) == ""
    assert problem_of(FAILED, "error: no\n", 0.1, set()) == ""
    assert problem_of(FAILED, "error: no\n", LIMIT_S, set()).startswith("took")
    assert problem_of("TooLong: ", "", 0.1, set()).startswith("escaped")
    assert problem_of(FAILED, "Traceback\nerror: no\n", 0.1, set()).startswith("not foreseen")
    assert problem_of(FAILED, "error: plan stopped in x: KeyError\n", 0.1, set()).startswith("not foreseen")
    assert problem_of(FAILED, "a\nerror: no\n", 0.1, set()).startswith("2 lines")
    assert problem_of(FAILED, "error: no\n", 0.1, {Path("out")}).startswith("left behind")
    assert problem_of(DONE, "", 0.1, {Path(".out.partial-1")}).startswith("half-written")
