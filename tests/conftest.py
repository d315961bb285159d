"""Settings shared by all tests: offline, few threads, no waiting in spin loops. Set before any library reads them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import settings

# On a busy machine an example takes what it takes; how long a test may take is pytest's to say.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Let the collections that follow every stage and training look only at what a module's tests made, not at all that is imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
