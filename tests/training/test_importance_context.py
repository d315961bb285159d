from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.importance_context import load_context
from prune2vec.training.slim_settings import SlimSettings
from tests.training.contexts import QUICK, tiny_plan

TEXTS = ["one text", "another, longer text with 12 words", "x"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("how", [{"pooling": "weightedmean"}, {"pooling": "lasttoken"}], ids=["weightedmean", "lasttoken"])
def test_subject_is_the_encoder_that_prune_writes(tmp_path: Path, family: str, how: dict[str, Any]) -> None:
    model, plan = tiny_plan(tmp_path, family, drop_attention=(), drop_mlp=(), width_cut=Fraction(0))
    settings = SlimSettings(**{**QUICK, **how})
    plan = plan.with_text(settings)
    context = load_context(str(model), plan, settings, identity={}, output=tmp_path / "slim.json")
    prune_model(str(model), plan, tmp_path / "small")
    written = load_encoder(tmp_path / "small", device="cpu", dtype="float32")
    for prompt in ("", "find: \n"):
        expected, found = (
            one.encode(TEXTS, prompt=prompt, convert_to_tensor=True, show_progress_bar=False)
            for one in (written, context.encoder)
        )
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_weights_are_the_models_own(tmp_path: Path) -> None:
    model, plan = tiny_plan(tmp_path)
    full = replace(plan, width_cut=Fraction(0)).with_text(SlimSettings(**QUICK))
    context = load_context(str(model), full, SlimSettings(**QUICK), identity={}, output=tmp_path / "slim.json")
    assert list(context.blocks) == [0, 1, 4], "layer 2 has no MLP, layer 3 is not kept"
    assert context.encoder.max_seq_length == 32
    assert not any(parameter.requires_grad for parameter in context.encoder.transformers_model.parameters())
    whole = AutoModel.from_pretrained(model).layers
    for layer, block in context.blocks.items():
        assert torch.equal(block.mlp.up_proj.weight, whole[layer].mlp.up_proj.weight)
