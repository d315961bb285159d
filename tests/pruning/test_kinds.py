"""Cuts of models whose layers are of several kinds: whatever kinds stay, the encoder is the original without the rest."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from prune2vec.errors import CheckpointError
from prune2vec.models.families import block_list, find_family
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import FAMILIES, save_tiny, tiny_tokenizer

TEXTS = ["quick fox", "the reader has seen 12 rows of the file so far, or 345 of them in the morning light of spring"]
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
KINDS: dict[str, dict[str, Any]] = {
    **{family: FAMILIES[family] for family in ("gemma2", "gemma3_text", "qwen2", "smollm3")},
    "olmo3": {"sliding_window": 16, "layer_types": [*["sliding_attention"] * 2, "full_attention", *["sliding_attention"] * 2]},
    "exaone4": {"sliding_window": 16, "sliding_window_pattern": 3},
    "apertus": {},
    "qwen3_moe": {**_EXPERTS, "head_dim": 8, "decoder_sparse_step": 2},
    "llama4_text": {"num_local_experts": 2, "interleave_moe_layer_step": 2, "head_dim": 8, "intermediate_size_mlp": 48},
}


def save_kind(folder: Path, family: str) -> Path:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**FAMILIES["llama"], **KINDS[family]})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.no_grad()
def vectors_without_the_rest(folder: Path, keep: list[int]) -> np.ndarray:
    """Return vectors of the original model whose other blocks pass on what they get, one text at a time."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for layer, block in enumerate(block_list(model, find_family(model, model.config))):
        if layer not in keep:
            block.forward = lambda hidden_states, *args, **kwargs: hidden_states
    rows = []
    for text in TEXTS:
        states = model(input_ids=tokenizer(text, return_tensors="pt")["input_ids"], use_cache=False)[0][0]
        weights = torch.arange(1.0, len(states) + 1)
        rows.append(torch.nn.functional.normalize(weights @ states, dim=0))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("keep", [[0], [2], [3], [0, 1], [1, 3], [0, 2, 4], [0, 1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("family", KINDS)
def test_every_cut_is_the_original_without_the_rest(tmp_path: Path, family: str, keep: list[int]) -> None:
    model = save_kind(tmp_path / "m", family)
    out = prune_model(str(model), plan_for(model, keep), tmp_path / "out", max_length=128)
    found = SentenceTransformer(str(out), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(found, vectors_without_the_rest(model, keep), atol=2e-6, rtol=0)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16", "float16"])
def test_the_number_format_is_the_models_or_the_one_asked_for(
    tmp_path: Path, stored: torch.dtype, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = save_tiny(tmp_path / "m")
    # Many small tensors in fp32 beside the matrices: what counts is values, not tensors.
    tensors = {
        name: tensor.to(stored) if tensor.ndim > 1 else tensor
        for name, tensor in load_file(model / "model.safetensors").items()
    }
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    plan = plan_for(model, range(3))
    capsys.readouterr()
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128, dtype=dtype)
    expected = stored if dtype == "auto" else getattr(torch, dtype)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {expected}
    assert json.loads((out / "config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")
    said = capsys.readouterr().err
    assert str(expected).removeprefix("torch.") in said
    assert ("from the model's own weights" in said) == (expected != stored)


def test_values_beyond_the_number_format_are_refused(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    plan = plan_for(model, range(2))
    with pytest.raises(CheckpointError, match=r"^tensor layers\.1\.mlp\.up_proj\.weight holds values beyond float16; [^\n]+$"):
        prune_model(str(model), plan, tmp_path / "out", max_length=128, dtype="float16")
    assert not (tmp_path / "out").exists()
