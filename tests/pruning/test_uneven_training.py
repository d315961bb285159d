"""Training an encoder whose blocks are not all alike, and saving it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from prune2vec.models.block_layout import layout_of
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.train import train_encoder
from tests.pruning.uneven import cut_tiny
from tests.training.encoders import rows

TEXTS = ["quick fox", "the lazy dog in the morning light", "12  34"]


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma3_text", "gpt2", "bert", "modernbert"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_trained_merged_saved_and_reloaded(tmp_path: Path, family: str, method: str) -> None:
    base = cut_tiny(tmp_path, family, attention=True, widths="uneven")
    output = tmp_path / "trained"
    train_encoder(
        base, rows(32), output, method=method, steps=2, batch_size=8, learning_rate=3e-3, save_every=1, dtype="float32"
    )
    before, after = load_file(base / "model.safetensors"), load_file(output / "model.safetensors")
    assert {name: tensor.shape for name, tensor in before.items()} == {name: tensor.shape for name, tensor in after.items()}
    inside = ("0.mlp", "0.intermediate", "0.output")
    narrow = [name for name, tensor in before.items() if any(part in name for part in inside) and tensor.ndim == 2]
    assert all({20, 40} & set(before[name].shape) for name in narrow)
    assert not any(torch.equal(before[name], after[name]) for name in narrow)
    first = load_encoder(base, device="cpu", dtype="float32")
    trained = load_encoder(output, device="cpu", dtype="float32")
    assert layout_of(trained[0].auto_model) == layout_of(first[0].auto_model)
    assert np.abs(trained.encode(TEXTS) - first.encode(TEXTS)).max() > 1e-4
    plain = SentenceTransformer(str(output), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(plain.encode(TEXTS), trained.encode(TEXTS), atol=1e-6, rtol=0)
    assert (output / "plan.json").read_bytes() == (base / "plan.json").read_bytes()
    assert "without the MLP of layer 1" in (output / "README.md").read_text()
