"""What the hooks see of the stream; the values are checked against written-out blocks in ``tests/scorers/test_redundancy``."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor

from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import find_family
from prune2vec.models.kept import KINDS
from prune2vec.models.sublayer_states import sub_layer_states
from tests.tiny import FAMILIES, tiny_model

IDS = torch.arange(4, 24)[None].repeat(2, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_goes_from_sub_layer_to_sub_layer(family: str) -> None:
    model, seen = tiny_model(family), {}
    record, parts = find_family(model, model.config), sub_layers_of(model)

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        assert before.shape == after.shape == (2, 20, 32)
        seen[layer, kind] = (before, after)

    with torch.inference_mode(), sub_layer_states(model, record, parts, see):
        model(input_ids=IDS, use_cache=False)
    assert list(seen) == [(layer, kind) for layer in range(5) for kind in KINDS]
    for layer in range(5):
        attention, mlp, block = (seen[layer, kind] for kind in KINDS)
        assert torch.equal(attention[0], block[0])
        if parts.between is not None:
            assert torch.equal(attention[1], mlp[0])
            assert torch.equal(mlp[1], block[1])
        else:
            assert torch.equal(mlp[0], block[0])
            torch.testing.assert_close(attention[1] + mlp[1] - block[0], block[1], rtol=1e-5, atol=1e-5)
        if layer:
            assert torch.equal(seen[layer - 1, "block"][1], block[0])


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_one_blocks_states_are_alive_and_hooks_go_even_after_an_error(family: str) -> None:
    model = tiny_model(family)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        nonlocal most
        alive[:] = [reference for reference in alive if reference() is not None]
        known = {id(reference()) for reference in alive}
        alive.extend(weakref.ref(state) for state in (before, after) if id(state) not in known)
        most = max(most, len(alive))
        if layer == 4 and kind == "block":
            raise KeyError

    with (
        pytest.raises(KeyError),
        torch.inference_mode(),
        sub_layer_states(model, find_family(model, model.config), sub_layers_of(model), see),
    ):
        model(input_ids=IDS, use_cache=False)
    assert 2 <= most <= 5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
