"""The greedy search against losses of models really cut, in float64."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from prune2vec.profiling.measure import measured
from prune2vec.profiling.profile_settings import ProfileSettings
from tests.profiling.test_layer_loss import by_hand, random_groups, tiny_backbone


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


def test_progress_counts_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, groups, done = tiny_backbone(tmp_path, "llama"), random_groups(), list[float]()
    monkeypatch.setattr("prune2vec.profiling.measure.progress", lambda *args, **kwargs: nullcontext(done.append))
    measured(["ablation"], backbone, groups, ProfileSettings(scorers=("ablation",), rounds=2))
    tokens = sum(len(row.ids) for group in groups for row in group.rows)
    assert sum(done) == tokens * (1 + 5 + 4)
