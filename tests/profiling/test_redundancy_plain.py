from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.kept import KINDS
from prune2vec.profiling.importance import Redundancy
from prune2vec.profiling.plain_windows import plain_windows
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import redundancy
from prune2vec.profiling.scorer import scorers
from tests.profiling.test_conformance import section_of
from tests.profiling.test_layer_loss import random_groups, tiny_backbone


def test_it_is_the_redundancy_on_windows_and_not_on_the_groups(tmp_path: Path) -> None:
    backbone, source, done = tiny_backbone(tmp_path, "llama"), tmp_path / "plain.txt", []
    source.write_text("the quick brown fox jumps over the lazy dog\n" * 40)
    settings = ProfileSettings(plain=source, windows=5, window_length=24, seed=3)
    section = section_of(backbone, "redundancy-plain", random_groups(), settings, done)
    windows = plain_windows(source, backbone.tokenizer, count=5, length=24, context=backbone.max_length, seed=3)
    expected = redundancy(backbone, sub_layers_of(backbone.model), windows, texts="plain")
    found = Redundancy.from_json(section)
    for kind in KINDS:
        assert found.row(kind) == pytest.approx(expected.row(kind))
    assert (found.texts, found.tokens, section["windows"], section["window_length"]) == ("plain", 120, 5, 24)
    assert sum(done) == 120
    other = section_of(backbone, "redundancy-plain", random_groups(), settings.model_copy(update={"seed": 4}), [])
    assert other["digest"] != section["digest"]


def test_no_text_no_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none is given"):
        scorers.get("redundancy-plain")(tiny_backbone(tmp_path, "llama"), random_groups(), ProfileSettings())
