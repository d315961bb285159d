"""All depths of one pass, side by side, are the states of the cuts exactly."""

from __future__ import annotations

import pytest
import torch

from prune2vec.forward.depth_states import states_at
from prune2vec.models.cut import cut_model
from prune2vec.models.selftest import random_ids
from tests.tiny import FAMILIES, tiny_model

DEPTHS = (1, 3, 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_is_the_cut(family: str) -> None:
    model = tiny_model(family)
    ids = random_ids(model)
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False)[0]
        expected = [cut_model(model, range(depth))(input_ids=ids, use_cache=False)[0] for depth in DEPTHS]
        with states_at(model, DEPTHS):
            called, method = model(input_ids=ids, use_cache=False), model.forward(input_ids=ids, use_cache=False)
        for found in (called[0], called.last_hidden_state, method["last_hidden_state"]):
            parts = found.chunk(len(DEPTHS), dim=-1)
            assert all(torch.equal(part, states) for part, states in zip(parts, expected, strict=True))
        assert torch.equal(model(input_ids=ids, use_cache=False)[0], before)
    assert "forward" not in vars(model) and not any(module._forward_hooks for module in model.modules())
