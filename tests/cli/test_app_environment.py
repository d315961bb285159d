"""Other libraries keep quiet, unless the user asks them to speak."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from prune2vec.cli.app import LOGGERS, prepare_environment


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    """Undo what ``prepare_environment`` sets for the whole process."""
    environment = dict(os.environ)
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    yield
    os.environ.clear()
    os.environ.update(environment)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def test_loggers_and_bars_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.delenv(name, raising=False)
    prepare_environment()
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"
    assert os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] == "1"
    assert logging.getLogger("sentence_transformers").level == logging.ERROR


@pytest.mark.parametrize(("name", "theirs"), [("TRANSFORMERS_VERBOSITY", "debug"), ("OMP_WAIT_POLICY", "active")])
def test_the_users_settings_win(monkeypatch: pytest.MonkeyPatch, name: str, theirs: str) -> None:
    monkeypatch.setenv(name, theirs)
    prepare_environment()
    assert os.environ[name] == theirs


def test_openmp_threads_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    prepare_environment()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
