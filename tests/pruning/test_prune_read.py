"""Damaged values are found wherever they are, though a tensor is looked at in pieces."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prune2vec.errors import UnsupportedModel
from prune2vec.pruning import prune as kept
from tests.pruning.plans import kept_of, plan_for
from tests.tiny import save_tiny


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


def test_quantised_weights_are_one_line(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    plan, stored = plan_for(folder, range(3)), load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**stored, name: stored[name].to(torch.float8_e4m3fn)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"up_proj\.weight is stored in F8_E4M3.*convert it to plain weights"):
        kept_of(folder, plan)
    entries = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**entries, "quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(UnsupportedModel, match="is quantised; convert it to plain weights first"):
        kept_of(folder, plan)
