"""The greedy searches against losses and vectors of models really cut, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from prune2vec.profiling.measure import measured
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import distinct_rows
from prune2vec.ridge import RIDGES
from tests.profiling.test_layer_loss import by_hand, random_groups, tiny_backbone, vector_by_hand


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_the_block_whose_loss_is_missed_least_goes(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups()
    settings = ProfileSettings(scorers=("ablation",), rounds=3)
    found = measured(["layer-loss", "ablation"], backbone, groups, settings)

    def loss_of(layers: list[int]) -> float:
        model = cut_model(backbone.model, Kept.whole(layers))
        return sum(by_hand(model, group) for group in groups) / len(groups)

    left, section = list(range(5)), found["ablation"]
    assert section["loss"][0] == found["layer-loss"]["loss"][-1] == pytest.approx(loss_of(left), rel=1e-5)
    for gone, loss in zip(section["order"], section["loss"][1:], strict=True):
        losses = {layer: loss_of([other for other in left if other != layer]) for layer in left}
        assert losses[gone] == pytest.approx(min(losses.values()), rel=1e-5)
        assert loss == pytest.approx(losses[gone], rel=1e-5)
        left.remove(gone)
    assert len(section["order"]) == 3


def cosine_by_hand(inputs: np.ndarray, targets: np.ndarray) -> float:
    """Return the best mean cosine over the ridges of each target with what a layer makes of it that was solved without it."""

    def without(place: int, ridge: float) -> float:
        x, y = np.delete(inputs, place, axis=0), np.delete(targets, place, axis=0)
        penalty = ridge * np.square(inputs - inputs.mean(0)).mean() * len(inputs)
        centred = x - x.mean(0)
        weight = np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T @ (y - y.mean(0)))
        found = y.mean(0) + (inputs[place] - x.mean(0)) @ weight
        return float(found @ targets[place] / np.linalg.norm(found) / np.linalg.norm(targets[place]))

    return max(np.mean([without(place, ridge) for place in range(len(inputs))]) for ridge in RIDGES)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_the_blocks_stay_of_whose_vectors_a_linear_layer_makes_most(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups(size=8)
    found = measured(["linear-fit"], backbone, groups, ProfileSettings(scorers=("linear-fit",), rounds=2))["linear-fit"]
    rows = distinct_rows(groups)
    assert found["texts"] == len(rows) == 48

    def vectors(layers: Sequence[int]) -> np.ndarray:
        model = cut_model(backbone.model, Kept.whole(layers))
        return torch.stack([vector_by_hand(model, row) for row in rows]).numpy()

    whole = vectors(range(5))
    targets = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    expected = [cosine_by_hand(vectors(range(depth)), targets) for depth in range(1, 6)]
    assert found["prefix"] == pytest.approx(expected, abs=1e-4)
    left = list(range(5))
    assert found["cosine"][0] == found["prefix"][-1]
    for gone, cosine in zip(found["order"], found["cosine"][1:], strict=True):
        by_layer = {layer: cosine_by_hand(vectors([one for one in left if one != layer]), targets) for layer in left}
        assert cosine == pytest.approx(max(by_layer.values()), abs=1e-4) == pytest.approx(by_layer[gone], abs=1e-4)
        left.remove(gone)


def test_few_texts_where_their_vectors_would_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, groups = tiny_backbone(tmp_path, "llama"), random_groups()
    monkeypatch.setattr("prune2vec.profiling.ablation._VECTORS_BYTES", 10 * 4 * 5 * 32)
    assert measured(["linear-fit"], backbone, groups, ProfileSettings(rounds=1))["linear-fit"]["texts"] == 10


@pytest.mark.parametrize("scorer", ["ablation", "linear-fit"])
def test_progress_counts_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scorer: str) -> None:
    backbone, groups, done = tiny_backbone(tmp_path, "llama"), random_groups(), list[float]()
    monkeypatch.setattr("prune2vec.profiling.measure.progress", lambda *args, **kwargs: nullcontext(done.append))
    measured([scorer], backbone, groups, ProfileSettings(scorers=(scorer,), rounds=2))
    tokens = sum(len(row.ids) for group in groups for row in group.rows)
    assert sum(done) == tokens * (1 + 5 + 4)
