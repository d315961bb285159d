"""Dropping one by one, against the whole model in which what has gone is made silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.errors import ConfigError
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.kept import KINDS, Kept
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import redundancy
from prune2vec.profiling.scorer import scorers
from prune2vec.profiling.token_groups import distinct_rows
from tests.models.silence import plan_of, silenced
from tests.profiling.test_conformance import section_of
from tests.profiling.test_layer_loss import random_groups, tiny_backbone

EVERY = set(range(5))


def kept_without(kind: str, gone: list[int]) -> Kept:
    layers = EVERY - set(gone) if kind == "block" else EVERY
    return Kept.of(layers, drop_attention=gone if kind == "attention" else (), drop_mlp=gone if kind == "mlp" else ())


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi", "olmo2", "opt"])
def test_each_round_takes_the_least_important_of_what_is_left(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups()
    section = section_of(backbone, "redundancy-iterative", groups, ProfileSettings(rounds=4), [])
    for kind in KINDS:
        gone: list[int] = []
        for _ in range(4):
            with silenced(backbone.model, plan_of(backbone.model, kept_without(kind, gone), {})):
                row = redundancy(backbone, sub_layers_of(backbone.model), distinct_rows(groups)).row(kind)
            gone.append(min(EVERY - set(gone), key=lambda layer: row[layer]))
        assert section[kind] == gone


def test_half_the_layers_unless_told(tmp_path: Path) -> None:
    backbone, groups = tiny_backbone(tmp_path, "llama"), random_groups()
    section = section_of(backbone, "redundancy-iterative", groups, ProfileSettings(), [])
    assert {kind: len(section[kind]) for kind in KINDS} == dict.fromkeys(KINDS, 2)


def test_one_layer_must_stay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounds is 5, but one of 5 layers must stay; give at most 4"):
        scorers.get("redundancy-iterative")(tiny_backbone(tmp_path, "llama"), random_groups(), ProfileSettings(rounds=5))
