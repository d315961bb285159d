"""The model that is written tensor by tensor is one that transformers loads, whole; the figures on paper are its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import random_model
import torch
from on_paper import Rates, profile_on_paper, shape_of
from random_model import Sizes, total_bytes, write_random_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.tiny import save_tiny

SIZES = Sizes(layers=3, hidden=64, intermediate=96, heads=4, kv_heads=2, vocabulary=400)


def make(tmp_path: Path, name: str, seed: int = 0) -> Path:
    tokenizer = save_tiny(tmp_path / "tokenizer")
    return write_random_model(tmp_path / name, SIZES, seed=seed, tokenizer=str(tokenizer))


@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 60_000])
def test_transformers_loads_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_bytes: int) -> None:
    monkeypatch.setattr(random_model, "SHARD_BYTES", shard_bytes)
    folder = make(tmp_path, "model")
    files = sorted(folder.glob("*.safetensors"))
    assert (len(files) > 3) == (shard_bytes < 10**6)
    assert sum(tensor.nbytes for file in files for tensor in load_file(file).values()) == total_bytes(SIZES)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert (model.dtype, model.config.rope_parameters["rope_theta"]) == (torch.bfloat16, 500000.0)
    first, second = (model.model.layers[layer].mlp.up_proj.weight.float() for layer in (0, 1))
    assert first.std().item() == pytest.approx(0.02, rel=0.1)
    assert not torch.equal(first, second)
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_the_seed_decides(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    one, same, other = (
        load_file(next(make(tmp_path, name, seed).glob("*.safetensors"))) for name, seed in zip(names, (0, 0, 1), strict=True)
    )
    key = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(one[key], same[key])
    assert not torch.equal(one[key], other[key])


def test_no_room_on_the_disk(tmp_path: Path) -> None:
    huge = Sizes(layers=10**4, hidden=8192, intermediate=28672, heads=64, kv_heads=8)
    with pytest.raises(OSError, match="the disk has"):
        write_random_model(tmp_path / "huge", huge)
    assert not (tmp_path / "huge").exists()


def test_sizes_of_the_known_models() -> None:
    # Llama 3: 8.03 and 70.6 thousand million parameters, two bytes each.
    assert total_bytes(random_model.LIKE["8B"]) == 2 * 8_030_261_248
    assert total_bytes(random_model.LIKE["70B"]) == 2 * 70_553_706_496


def test_figures_on_paper_by_hand() -> None:
    block = 2 * (64 + 64 * 64 + 32 * 64 + 32 * 64 + 64 * 64 + 64 + 3 * 64 * 96)
    outside = 2 * (400 * 64 + 64)
    per_token = 3 * (2 * (block // 2 - 128) + 2 * (10 + 1) * 64)
    slow_disk = Rates(name="x", flops=1e15, read=1e6, link=1e9, source="")
    found = profile_on_paper(SIZES, slow_disk, tokens=1000, length=10, kept=2)
    assert shape_of(SIZES).num_layers == 3
    assert (found.block_bytes, found.profile_bytes) == (block, outside + 3 * block)
    assert (found.kept_bytes, found.states_bytes) == (outside + 2 * block, 1000 * 64 * 2)
    assert found.flops == 1000 * per_token
    assert found.seconds_read == pytest.approx((outside + 3 * block) / 1e6)
    assert found.seconds == pytest.approx((outside + 4 * block) / 1e6)
    slow_machine = Rates(name="x", flops=1e6, read=1e15, link=None, source="")
    found = profile_on_paper(SIZES, slow_machine, tokens=1000, length=10, kept=2)
    assert found.seconds == pytest.approx(1000 * per_token / 1e6, rel=1e-6)
