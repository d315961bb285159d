from __future__ import annotations

import io
import os
import pty
import time
from collections.abc import Iterator

import pytest

from prune2vec.progress import _clock, progress, say, set_enabled


@pytest.fixture(autouse=True)
def _switched_on() -> Iterator[None]:
    set_enabled(True)
    yield
    set_enabled(True)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599, "59:59"), (3725, "1:02:05")])
def test_clock(seconds: float, text: str) -> None:
    assert _clock(seconds) == text


def test_lines_go_to_stderr_only(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_control_characters_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[2J\x9b\u202eb")
    assert capsys.readouterr().err == "a\\x1b[2J\\x9b\\u202eb\n"


def test_switched_off_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    set_enabled(False)
    say("hello")
    with progress("work", 10) as advance:
        advance(10)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("closed", [True, False])
def test_without_a_stream_work_goes_on(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream if closed else None)
    say("a line")
    with progress("work", 2) as advance:
        advance(2)


def test_a_stream_need_not_know_whether_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare:
        said = ""

        def write(self, text: str) -> None:
            self.said += text

        def flush(self) -> None:
            pass

    stream = Bare()
    monkeypatch.setattr("sys.stderr", stream)
    say("a line")
    assert stream.said == "a line\n"


def test_a_quick_step_leaves_no_line_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 3) as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose only entry is the time that progress sees."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_line_has_share_time_and_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("work", 200) as advance:
        clock[0] += 19
        advance(40)
        assert capsys.readouterr().err == ""
        clock[0] += 11
        advance(10)
    assert capsys.readouterr().err == "work:  25 %, 0:30 so far, about 1:30 left\n"


def test_work_done_by_an_earlier_run_counts_for_the_share_but_not_for_the_speed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("work", 200, done=100) as advance:
        clock[0] += 20
        advance(50)
    assert capsys.readouterr().err == "work:  75 %, 0:20 so far, about 0:20 left\n"


@pytest.mark.parametrize("total", [100, 0])
def test_more_work_than_announced_is_not_more_than_all(
    total: int, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("work", total) as advance:
        clock[0] += 30
        advance(150)
    assert capsys.readouterr().err == "work: 100 %, 0:30 so far, about 0:00 left\n"


def read_all(terminal: int) -> str:
    """Return what was written to a pseudo-terminal whose other side is closed; one read may bring only a part of it."""
    shown = b""
    while True:
        try:
            shown += (part := os.read(terminal, 100_000))
        except OSError:  # Linux's word for the end of a pseudo-terminal.
            part = b""
        if not part:
            return shown.decode()


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        with progress("work", 4, done=1) as advance:
            advance(3)
    shown = read_all(leader)
    os.close(leader)
    assert "work" in shown and "100%" in shown
