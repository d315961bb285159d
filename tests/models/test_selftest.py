from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.families import Family, SubLayers, find_family
from prune2vec.models.selftest import check_sub_layers, is_causal, self_test
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family: str) -> None:
    model = tiny_model(family)
    self_test(model, find_family(model, model.config))
    assert is_causal(model)


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
    assert not is_causal(model)
    with pytest.raises(UnsupportedModel, match="not a decoder-only model: at layer 0"):
        self_test(model, Family(blocks="encoder.layer", final=()))


def test_causal_family_switched_to_bidirectional_is_refused() -> None:
    model = tiny_model("llama", is_causal=False)
    for block in model.layers:
        block.self_attn.is_causal = False
    with pytest.raises(UnsupportedModel, match="an early token sees a later one"):
        self_test(model, find_family(model, model.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_sub_layers_of_every_family_can_go(family: str) -> None:
    model = tiny_model(family)
    parts = check_sub_layers(model, find_family(model, model.config))
    assert (parts.between is None) == (family in ("phi", "gpt_neox"))


def test_sub_layers_of_sequential_gpt_neox_can_go() -> None:
    model = tiny_model("gpt_neox", use_parallel_residual=False)
    assert check_sub_layers(model, find_family(model, model.config)).between == "post_attention_layernorm"


def test_a_model_of_one_block_has_nothing_to_check() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    check_sub_layers(model, find_family(model, model.config))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        # The stream is not what the norm after attention gets in gemma2, nor what attention's own norm gets in llama.
        ("gemma2", {"between": "post_attention_layernorm"}, "does not run without single sub-layers"),
        ("llama", {"between": "input_layernorm"}, "block 0 without its MLP differs by"),
        # Taken for parallel, though the MLP reads what attention left.
        ("granite", {"between": None}, "block 0 without its MLP differs by"),
        # Taken for sequential, though both read the block's input.
        ("gpt_neox", {"between": "post_attention_layernorm"}, "block 0 without its MLP differs by"),
        ("llama", {"between": "no_such_norm"}, "does not run without single sub-layers"),
        # The MLP's norm is taken for one of attention's, so dropping attention would drop it too.
        (
            "llama",
            {"attention_norms": ("input_layernorm", "post_attention_layernorm")},
            "block 0 without its attention differs",
        ),
        ("llama", {"mlp": ("input_layernorm",), "mlp_norms": ()}, "block 0 without attention and MLP changes its input"),
    ],
)
def test_a_wrong_record_is_found(
    monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, object], message: str
) -> None:
    model = tiny_model(family, **({"residual_multiplier": 0.3} if family == "granite" else {}))
    right = check_sub_layers(model, find_family(model, model.config))
    wrong: SubLayers = replace(right, **changes)
    for place in ("selftest", "cut", "block_layout"):
        monkeypatch.setattr(f"prune2vec.models.{place}.sub_layers_of", lambda *args: wrong)
    with pytest.raises(UnsupportedModel, match=message):
        check_sub_layers(model, find_family(model, model.config))
