import pytest
import torch
from transformers import AutoConfig, AutoModel

from prune2vec.backbone.selftest import self_test
from prune2vec.errors import UnsupportedModel
from prune2vec.families import Family, find_family
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family: str) -> None:
    model = tiny_model(family)
    self_test(model, find_family(model, model.config))


def test_wrong_final_norm_is_found() -> None:
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModel, match="final norm on block 1 of 5"):
        self_test(model, Family(final=()))


def test_bidirectional_model_is_refused() -> None:
    config = AutoConfig.for_model(
        "bert", hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32, vocab_size=64
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="not a decoder-only model: at layer 0"):
        self_test(model, Family(blocks="encoder.layer", final=()))


def test_causal_family_switched_to_bidirectional_is_refused() -> None:
    model = tiny_model("llama", is_causal=False)
    for block in model.layers:
        block.self_attn.is_causal = False
    with pytest.raises(UnsupportedModel, match="an early token sees a later one"):
        self_test(model, find_family(model, model.config))
