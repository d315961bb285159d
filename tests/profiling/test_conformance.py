"""Every registered scorer: finite, independent of batching, the same when streamed, and it accounts for its work."""

import json
import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.profiling.measure import measured, scorers
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup
from tests.profiling.test_layer_loss import random_groups
from tests.tiny import ENCODERS, save_tiny


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


def section_of(backbone: Backbone, name: str, groups: list[TokenGroup], settings: ProfileSettings, done: list[float]) -> Any:
    """Return what a scorer alone finds, as it reads back from a file; ``done`` gets the progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prune2vec.profiling.measure.progress", lambda *args, **kwargs: nullcontext(done.append))
        sections = measured([name], backbone, groups, settings.model_copy(update={"scorers": (name,)}))
    assert sum(done) > 0
    return json.loads(json.dumps(sections[name], allow_nan=False))


@pytest.mark.parametrize("name", scorers.names())
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text", "phi", "opt", "gemma3_text+bidirectional", *ENCODERS])
def test_scorer(tmp_path: Path, name: str, family: str) -> None:
    folder, groups = str(save_tiny(tmp_path / "m", family)), random_groups()
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    (tmp_path / "plain.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    settings = ProfileSettings(plain=tmp_path / "plain.txt", windows=3, window_length=40)
    section = section_of(backbone, name, groups, settings, [])
    found = dict(numbers(section))
    assert len(found) >= backbone.shape.num_layers
    assert all(math.isfinite(value) for value in found.values())
    small = settings.model_copy(update={"token_budget": 64})
    again = section_of(backbone, name, groups, small, [])
    assert dict(numbers(again)) == pytest.approx(found, rel=1e-4, abs=1e-5)
    streamed = load_backbone(folder, dtype="float32", device="cpu", stream="on")
    assert dict(numbers(section_of(streamed, name, groups, small, []))) == pytest.approx(found, rel=1e-5, abs=1e-5)


def test_registry_documents_every_scorer() -> None:
    assert all(scorers.get(name).__doc__ for name in scorers)
