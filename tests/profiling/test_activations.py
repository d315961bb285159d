"""Mean activations and silent neurons; against a computation by hand in ``test_cut_loss``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prune2vec.forward.runner import ModelVariant, ObservedRun, observed
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.profiling.activations import Activations, least_active
from prune2vec.profiling.together import measure_alone
from tests.forward.test_depths import random_rows
from tests.profiling.test_layer_loss import tiny_backbone

FAMILIES = ["llama", "gemma2", "gpt2", "phi", "phi3", "opt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_do_not_depend_on_batching(tmp_path: Path, family: str) -> None:
    backbone, rows, done = tiny_backbone(tmp_path, family), random_rows(9), []
    neurons = sub_layers_of(backbone.model).neurons
    together = measure_alone(backbone, Activations(neurons, rows), token_budget=10_000, advance=done.append)
    alone = measure_alone(backbone, Activations(neurons, rows), token_budget=1)
    assert sum(done) == sum(len(row.ids) for row in rows)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_least_active_are_taken_over_all_layers() -> None:
    activity = [torch.tensor([0.5, 0.1, 0.3]), torch.tensor([0.2, 0.9]), torch.tensor([0.3])]
    stays = [row.tolist() for row in least_active(activity, 3)]
    assert stays == [[True, False, False], [False, True], [True]]
    assert all(all(row.tolist()) for row in least_active(activity, 0))


def test_silent_neurons_leave_the_model_as_it_was(tmp_path: Path) -> None:
    backbone, ids = tiny_backbone(tmp_path, "llama"), torch.arange(4, 20)[None]
    variant = ModelVariant(neurons=sub_layers_of(backbone.model).neurons, speaking=[torch.zeros(48, dtype=torch.bool)] * 5)
    blocks = list(enumerate(backbone.model.layers))
    with torch.inference_mode():
        before = backbone.model(input_ids=ids, use_cache=False)[0]
        with pytest.raises(KeyError), observed(ObservedRun(watchers=[], variant=variant), blocks):
            assert not torch.allclose(backbone.model(input_ids=ids, use_cache=False)[0], before)
            raise KeyError
        assert torch.equal(backbone.model(input_ids=ids, use_cache=False)[0], before)
