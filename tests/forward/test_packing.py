"""Models that cannot take packed rows are found out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prune2vec.forward.packed import ATTENTION
from prune2vec.forward.packing import packing_obstacle
from tests.tiny import VOCAB, tiny_model


def test_softcapped_attention_is_not_packed() -> None:
    model = tiny_model("gemma2")
    assert packing_obstacle(model) == "its attention is eager, which has no kernel for packed rows"


def test_a_class_with_attention_of_its_own_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(type(model), "set_attn_implementation", lambda self, name: None)
    assert packing_obstacle(model) == "its class does not let its attention be replaced"


def test_a_model_whose_tokens_see_other_rows_is_found_out() -> None:
    model = tiny_model("llama")

    def leak(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output + output.cumsum(dim=1) * 0.01

    model.layers[2].mlp.register_forward_hook(leak)
    assert packing_obstacle(model).startswith("packed rows come out otherwise than alone (by ")


def test_a_state_that_is_large_everywhere_hides_no_leak() -> None:
    model = tiny_model("gpt2").bfloat16()
    with torch.no_grad():
        model.ln_f.bias[0] = 100
    assert packing_obstacle(model) == ""
    model.h[2].mlp.register_forward_hook(lambda module, args, output: output + 0.5 * output.cumsum(dim=1))
    assert packing_obstacle(model).startswith("packed rows come out otherwise than alone (by ")


def test_a_window_that_attention_is_not_told_of_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("mistral")
    monkeypatch.setattr("prune2vec.forward.packed._band", lambda *args: None)
    assert packing_obstacle(model, max_length=16) == ""
    assert packing_obstacle(model, max_length=64) != ""


def test_a_window_that_is_in_the_mask_alone_is_found_out() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    experts = {"num_experts": 2, "num_experts_per_tok": 1}
    window = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}
    config = AutoConfig.for_model("qwen2_moe", vocab_size=VOCAB, **sizes, **heads, **experts, **window)
    model = AutoModel.from_config(config).eval().bfloat16()
    assert packing_obstacle(model, max_length=64) == ""
    assert packing_obstacle(model, max_length=65) == "its attention is not told of its window of 64 tokens"


def test_attention_to_chunks_is_not_packed() -> None:
    model = tiny_model("llama")
    model.config.attention_chunk_size = 16
    assert packing_obstacle(model, max_length=16) == ""
    assert packing_obstacle(model, max_length=17).startswith("its attention looks at chunks of 16 tokens")


def test_the_probe_keeps_to_the_memory() -> None:
    model = tiny_model("mistral")
    assert packing_obstacle(model, max_length=64, room=60) == ""
    assert packing_obstacle(model, max_length=64, room=59).startswith("the memory that may be used does not hold")


def test_attention_is_set_back_where_setting_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model, kept = tiny_model("llama"), tiny_model("llama").set_attn_implementation.__func__

    def fail(self: PreTrainedModel, name: str) -> None:
        kept(self, name)
        if name == ATTENTION:
            raise ValueError("no")

    monkeypatch.setattr(type(model), "set_attn_implementation", fail)
    assert packing_obstacle(model) == "packed rows fail in it (no)"
    assert model.config._attn_implementation == "sdpa"


def test_any_error_in_the_model_is_an_obstacle() -> None:
    model = tiny_model("llama")

    def refuse(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        assert "packed_runs" not in kwargs, "no room for these"

    model.layers[1].self_attn.register_forward_pre_hook(refuse, with_kwargs=True)
    assert packing_obstacle(model) == "packed rows fail in it (no room for these)"


def test_the_probe_changes_nothing() -> None:
    model = tiny_model("llama").train()
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    packing_obstacle(model)
    assert torch.equal(torch.rand(1), drawn)
    assert model.training and all(module.training for module in model.modules())
    assert model.config._attn_implementation != ATTENTION
