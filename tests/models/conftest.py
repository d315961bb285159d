"""Conversions of these tests go into a cache of their own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE2VEC_CACHE", str(tmp_path / "cache"))
