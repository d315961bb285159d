"""A small encoder and a corpus for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prune2vec.encoding.store import Store
from prune2vec.pruning.prune import prune_model
from tests.encoding.test_engine import texts
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

ROWS = 57


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("encoder")
    model = save_tiny(root / "m", bos=True)
    return prune_model(str(model), plan_for(model, [0, 2]), root / "out", max_length=64)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [json.dumps({"_id": f"d{row}", "text": text}) for row, text in enumerate(texts(ROWS))]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    return tmp_path / "corpus.jsonl"


def read_all(store: Store) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Return all ids and vectors of a store as they are stored: (row,) and (row, width)."""
    ids = [name for number in range(len(store.parts)) for name in store.read_ids(number)]
    vectors = [part for number in range(len(store.parts)) for part in store.read_vectors(number, 1000)]
    return ids, np.concatenate(vectors) if vectors else np.empty((0, store.precision.width))
