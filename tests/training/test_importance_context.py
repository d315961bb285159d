from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.importance_context import load_context
from prune2vec.training.slim import slim_plan
from prune2vec.training.slim_settings import SlimSettings
from tests.tiny_encoders import TINY_ENCODERS
from tests.training.contexts import QUICK, tiny_plan
from tests.training.encoders import rows

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


def test_an_encoder_is_scored_behind_its_heads(tmp_path: Path) -> None:
    """The context is the encoder that ``prune`` writes, heads and prompts included, and only its neurons can be trained."""
    model = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m")
    profile = profile_model(str(model), rows(8), groups=1, group_size=8, dtype="float32", device="cpu")
    plan = make_plan(profile, method="depth", depth=3)
    chosen = SlimSettings(**QUICK)
    context = load_context(str(model), plan, chosen, identity={}, output=tmp_path / "slim.json")
    pruned = SentenceTransformer(str(prune_model(str(model), plan, tmp_path / "out")), device="cpu")
    for prompt in ("", "task: search | query: "):
        expected = pruned.encode(["a fox", "the lazy dog"], prompt=prompt)
        np.testing.assert_allclose(context.encoder.encode(["a fox", "the lazy dog"], prompt=prompt), expected, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in context.encoder.parameters())
    how = {key: value for key, value in QUICK.items() if key != "max_length"}
    made = slim_plan(str(model), plan, rows(16), output=tmp_path / "slim.json", importance="taylor", width_cut="25%", **how)
    assert made.neurons and made.text == plan.text
