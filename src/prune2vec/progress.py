"""Progress on stderr with an estimate of the time left: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from prune2vec.errors import shown_lines

Advance = Callable[[float], None]
_LOG_EVERY_S = 20.0
_enabled = True


def set_enabled(enabled: bool) -> None:
    """Switch all progress output on or off (``--quiet``)."""
    global _enabled
    _enabled = enabled


@contextmanager
def silenced() -> Iterator[None]:
    """Say nothing while the context is open."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers below errors, its progress bars and load reports included, while the context is open."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _is_open(stream: TextIO | None) -> bool:
    """Whether there is a stream, which some hosts of Python lack, to write to."""
    return stream is not None and not getattr(stream, "closed", False)


def say(line: str) -> None:
    """Write a line to stderr, control characters as their codes, unless progress is switched off or nobody could read it."""
    if _enabled and _is_open(sys.stderr):
        print(shown_lines(line), file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def progress(label: str, total: float, *, done: float = 0) -> Iterator[Advance]:
    """Show how far a long step has come; yields ``advance(n)`` to be called with the work just done.

    ``total`` is the whole work, in any unit (tokens tell the time left better than texts), and ``done`` what an earlier,
    interrupted run has done of it.
    """
    if not (_enabled and _is_open(sys.stderr)):
        yield lambda amount: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("left"))
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total)
            bar.update(task, completed=done)
            yield lambda amount: bar.advance(task, amount)
    else:
        begin = last = time.monotonic()
        now_done = done

        def advance(amount: float) -> None:
            nonlocal last, now_done
            now_done += amount
            now = time.monotonic()
            finished = now_done >= total > 0
            if now - last < _LOG_EVERY_S and not (finished and now - begin > 2):
                return
            last = now
            speed = (now_done - done) / max(now - begin, 1e-9)
            left = max(0.0, total - now_done) / speed if speed > 0 else 0.0
            share = min(100.0, 100 * now_done / total) if total else 100.0
            say(f"{label}: {share:3.0f} %, {_clock(now - begin)} so far, about {_clock(left)} left")

        yield advance
