"""Damaged values are found wherever they are, though a tensor is looked at in pieces."""

import pytest
import torch

from prune2vec.checkpoint import kept


@pytest.mark.parametrize("shape", [(5,), (7, 3), (1, 40), (4, 3, 2), (0, 4), ()])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_anywhere(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], bad: float) -> None:
    monkeypatch.setattr(kept, "_PIECE", 6)
    tensor = torch.ones(shape, dtype=torch.bfloat16)
    assert kept._is_finite(tensor)
    for place in range(tensor.numel()):
        damaged = tensor.clone()
        damaged.view(-1)[place] = bad
        assert not kept._is_finite(damaged)
