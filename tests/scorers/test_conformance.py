"""Every registered scorer: finite, independent of batching, and it accounts for its work."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prune2vec.backbone.load import load_backbone
from prune2vec.scorers.registry import scorers
from prune2vec.scorers.settings import ProfileSettings
from tests.scorers.test_layer_loss import random_groups
from tests.tiny import save_tiny


def numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number of a section with its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, f"{place}[{index}]")
    elif not isinstance(value, str):
        yield place, value


@pytest.mark.parametrize("name", scorers.names())
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "phi", "opt"])
def test_scorer(tmp_path: Path, name: str, family: str) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "m", family)), dtype="float32", device="cpu")
    (tmp_path / "plain.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    settings = {"plain": tmp_path / "plain.txt", "windows": 3, "window_length": 40}
    groups, done = random_groups(), []
    work = scorers.get(name)(backbone, groups, ProfileSettings(**settings))
    section = json.loads(json.dumps(work.measure(done.append, {}), allow_nan=False))
    again = scorers.get(name)(backbone, groups, ProfileSettings(**settings, token_budget=64)).measure(lambda amount: None, {})
    found = dict(numbers(section))
    assert len(found) >= backbone.shape.num_layers
    assert all(math.isfinite(value) for value in found.values())
    assert dict(numbers(json.loads(json.dumps(again)))) == pytest.approx(found, rel=1e-4, abs=1e-5)
    assert sum(done) == work.tokens > 0


@pytest.mark.parametrize("name", scorers.names())
def test_what_was_found_before_is_taken_over_and_not_measured_again(tmp_path: Path, name: str) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "m")), dtype="float32", device="cpu")
    (tmp_path / "plain.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    settings = ProfileSettings(plain=tmp_path / "plain.txt", windows=3, window_length=40)
    groups, done = random_groups(), []
    work = scorers.get(name)(backbone, groups, settings)
    before = {other: scorers.get(other)(backbone, groups, settings).measure(lambda amount: None, {}) for other in work.reuses}
    before = json.loads(json.dumps(before))
    assert json.loads(json.dumps(work.measure(done.append, before))) == json.loads(
        json.dumps(work.measure(lambda amount: None, {}))
    )
    assert sum(done) == work.tokens_after(before) == work.tokens - sum(work.reuses.values())


def test_registry_documents_every_scorer() -> None:
    assert all(scorers.get(name).__doc__ for name in scorers)
