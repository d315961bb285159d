"""One tiny encoder for all tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.encoders import save_tiny_encoder


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as an encoder folder."""
    return save_tiny_encoder(tmp_path_factory.mktemp("llama") / "small")
