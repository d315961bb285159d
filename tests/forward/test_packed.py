"""Packed rows against the same rows one at a time: states, gradients."""

from __future__ import annotations

import random

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.forward.batches import packing_obstacle, token_states
from prune2vec.forward.packed import SIMILAR, packable
from tests.tiny import FAMILIES, VOCAB, tiny_model

# Lengths 16 to 18 lie around the window of the families that have one.
LENGTHS = (5, 18, 1, 18, 16, 5, 30, 2, 17)
NO_DROPOUT = {"opt": {"dropout": 0.0}, "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}}
for bert in ("bert", "roberta", "xlm-roberta"):
    NO_DROPOUT[bert] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NO_DROPOUT["distilbert"] = {"dropout": 0.0, "attention_dropout": 0.0}
PACKS = sorted(set(FAMILIES) - {"gemma2", "mpnet"})


def made_rows(*lengths: int, seed: int = 0) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(1, VOCAB) for _ in range(length)] for length in lengths]


def alone(model: PreTrainedModel, rows: list[list[int]]) -> Tensor:
    return torch.cat([model(input_ids=torch.tensor([row]), use_cache=False)[0][0] for row in rows])


def adapted(family: str) -> PreTrainedModel:
    """Return a tiny model with random adapters and nothing else to train."""
    model = tiny_model(family, **NO_DROPOUT.get(family, {}))
    targets = ["q_proj", "down_proj", "c_attn", "query_key_value", "fc2", "qkv_proj", "query", "dense", "q_lin", "Wqkv"]
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


@pytest.fixture(params=["cpu", "gpu"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows share calls of the attention kernel as on a CPU, and as on a GPU."""
    if request.param == "gpu":
        monkeypatch.setitem(SIMILAR, "cpu", SIMILAR["other"])


@pytest.mark.usefixtures("calls")
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
            found = token_states(model, rows, token_budget=budget)
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


@pytest.mark.usefixtures("calls")
def test_the_order_of_rows_is_kept() -> None:
    model = tiny_model("llama")
    rows = made_rows(*random.Random(5).sample(range(1, 40), 20), seed=5)
    with torch.no_grad(), packable(model):
        assert_close(token_states(model, rows, token_budget=50), alone(model, rows))


def test_rows_as_long_as_the_model_reads() -> None:
    model = tiny_model("gpt2")
    rows = made_rows(256, 256, 3)
    with torch.no_grad(), packable(model):
        assert_close(token_states(model, rows), alone(model, rows))


def test_bf16_rows_stay_as_near_to_fp32_as_they_are_alone() -> None:
    rows = made_rows(*LENGTHS)
    with torch.no_grad():
        exact = alone(tiny_model("llama"), rows)
        model = tiny_model("llama").bfloat16()
        assert packing_obstacle(model) == ""
        rounded = alone(model, rows).float()
        with packable(model):
            found = token_states(model, rows).float()
    assert (found - exact).norm() <= 1.2 * (rounded - exact).norm()
