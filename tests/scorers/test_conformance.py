"""Every registered scorer: finite, one value a layer, independent of batching, and it accounts for its work."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from prune2vec.backbone.load import load_backbone
from prune2vec.scorers.groups import token_count
from prune2vec.scorers.registry import scorers
from prune2vec.scorers.settings import ProfileSettings
from tests.scorers.test_layer_loss import random_groups
from tests.tiny import save_tiny


def per_layer_lists(section: Mapping[str, Any], layers: int) -> dict[str, list[float]]:
    return {
        name: list(values)
        for name, values in section.items()
        if isinstance(values, (list, tuple)) and len(values) == layers and all(isinstance(value, float) for value in values)
    }


@pytest.mark.parametrize("name", scorers.names())
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_scorer(tmp_path: Path, name: str, family: str) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "m", family)), dtype="float32", device="cpu")
    groups, done = random_groups(), []
    section = scorers.get(name)(backbone, groups, ProfileSettings(), done.append)
    again = scorers.get(name)(backbone, groups, ProfileSettings(token_budget=64), lambda amount: None)
    lists = per_layer_lists(section, backbone.shape.num_layers)
    assert lists, "no list with one number a layer"
    for key, values in lists.items():
        assert all(math.isfinite(value) for value in values)
        assert per_layer_lists(again, backbone.shape.num_layers)[key] == pytest.approx(values, rel=1e-4, abs=1e-5)
    assert sum(done) == token_count(groups)
    json.dumps(section, allow_nan=False)


def test_registry_documents_every_scorer() -> None:
    assert all(scorers.get(name).__doc__ for name in scorers)
