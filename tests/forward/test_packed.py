"""Packed rows against the same rows one at a time: states, gradients, and models that cannot take them."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prune2vec.forward.packed import ATTENTION, packable, packed_states, packing_obstacle
from tests.tiny import FAMILIES, VOCAB, tiny_model

# Lengths 16 to 18 lie around the window of the families that have one.
LENGTHS = (5, 18, 1, 18, 16, 5, 30, 2, 17)
NO_DROPOUT = {"opt": {"dropout": 0.0}, "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
PACKS = sorted(set(FAMILIES) - {"gemma2"})


def made_rows(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(1, VOCAB) for _ in range(length)] for length in lengths]


def alone(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    return torch.cat([model(input_ids=torch.tensor([row]), use_cache=False)[0][0] for row in rows])


def adapted(family: str) -> PreTrainedModel:
    """Return a tiny model with random adapters and nothing else to train."""
    model = tiny_model(family, **NO_DROPOUT.get(family, {}))
    targets = ["q_proj", "down_proj", "c_attn", "query_key_value", "fc2", "qkv_proj"]
    config = LoraConfig(r=2, target_modules=targets, fan_in_fan_out=family == "gpt2")
    inject_adapter_in_model(config, model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora" in name)
            if "lora" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def gradients(model: nn.Module, states: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (states * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("family", PACKS)
def test_states_and_gradients_are_those_of_rows_alone(family: str) -> None:
    model = adapted(family)
    rows = made_rows(*LENGTHS)
    assert packing_obstacle(model, max_length=64) == ""
    expected = alone(model, rows)
    theirs = gradients(model, expected)
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with packable(model):
        for budget in (None, 40):
            found = packed_states(model, rows, token_budget=budget)
            assert_close(found, expected)
            ours = gradients(model, found)
            assert set(ours) == set(theirs) != set()
            for name, gradient in theirs.items():
                assert_close(ours[name], gradient)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "opt"])
def test_padded_batches_are_computed_as_before(family: str) -> None:
    model = tiny_model(family)
    ids = torch.tensor(made_rows(20, 20))
    mask = torch.ones_like(ids)
    mask[0, 12:] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask)[0]
        with packable(model):
            assert torch.equal(model(input_ids=ids, attention_mask=mask)[0], expected)
    assert model.config._attn_implementation == "sdpa"


def test_the_order_of_rows_is_kept() -> None:
    model = tiny_model("llama")
    rows = made_rows(*random.Random(5).sample(range(1, 40), 20), seed=5)
    with torch.no_grad(), packable(model):
        assert_close(packed_states(model, rows, token_budget=50), alone(model, rows))


def test_rows_as_long_as_the_model_reads() -> None:
    model = tiny_model("gpt2")
    rows = made_rows(256, 256, 3)
    with torch.no_grad(), packable(model):
        assert_close(packed_states(model, rows), alone(model, rows))


def test_bf16_rows_stay_as_near_to_fp32_as_they_are_alone() -> None:
    rows = made_rows(*LENGTHS)
    with torch.no_grad():
        exact = alone(tiny_model("llama"), rows)
        model = tiny_model("llama").bfloat16()
        assert packing_obstacle(model) == ""
        rounded = alone(model, rows).float()
        with packable(model):
            found = packed_states(model, rows).float()
    assert (found - exact).norm() <= 1.2 * (rounded - exact).norm()


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
