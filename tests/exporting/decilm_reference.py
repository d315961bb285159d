"""DeciLM inference in plain PyTorch from an exported folder alone: what vLLM is to compute, written from the layout.

It follows vLLM's block in what matters here: a block whose attention is a no-op passes (states, residual) on, and an MLP
that comes before any attention finds no residual stream.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

Weights = dict[str, Tensor]


def encode(folder: Path, texts: list[str]) -> Tensor:
    """Return one vector a text, computed one text at a time."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["DeciLMForCausalLM"]
    weights: Weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= {name: tensor.float() for name, tensor in load_file(file).items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"])
    unused = set(weights)
    vectors = []
    for text in texts:
        states = _decoder(torch.tensor(tokenizer.encode(text).ids), config, weights, unused)
        vectors.append(_pooled(states, folder))
    assert not unused, f"weights that nothing reads: {sorted(unused)[:3]}"
    return torch.stack(vectors)


def _decoder(ids: Tensor, config: dict[str, Any], weights: Weights, unused: set[str]) -> Tensor:
    def take(name: str) -> Tensor:
        unused.discard(f"model.{name}")
        return weights[f"model.{name}"]

    def linear(path: str, inputs: Tensor, bias: bool) -> Tensor:
        out = inputs @ take(f"{path}.weight").T
        return out + take(f"{path}.bias") if bias else out

    def norm(path: str, inputs: Tensor) -> Tensor:
        scale = torch.rsqrt(inputs.pow(2).mean(-1, keepdim=True) + config["rms_norm_eps"])
        return inputs * scale * take(f"{path}.weight")

    states, residual = take("embed_tokens.weight")[ids], None
    for number, block in enumerate(config["block_configs"]):
        prefix = f"layers.{number}"
        if not block["attention"]["no_op"]:
            residual = states if residual is None else residual + states
            attended = _attention(norm(f"{prefix}.input_layernorm", residual), block, prefix, config, linear)
            states = attended
        if not block["ffn"]["no_op"]:
            assert residual is not None, "an MLP before any attention: vLLM has no residual stream yet"
            residual = residual + states
            inner = norm(f"{prefix}.post_attention_layernorm", residual)
            bias = config["mlp_bias"]
            gate = linear(f"{prefix}.mlp.gate_proj", inner, bias)
            assert gate.shape[-1] == block["ffn"]["intermediate_size"]
            gated = gate * torch.sigmoid(gate) * linear(f"{prefix}.mlp.up_proj", inner, bias)
            states = linear(f"{prefix}.mlp.down_proj", gated, bias)
    assert residual is not None
    return norm("norm", residual + states)


def _attention(inputs: Tensor, block: Any, prefix: str, config: Any, linear: Any) -> Tensor:
    length, size = len(inputs), config["head_dim"]
    heads = config["num_attention_heads"]
    group = block["attention"]["n_heads_in_group"]
    bias = config.get("qkv_bias", config["attention_bias"])
    query, key, value = (
        linear(f"{prefix}.self_attn.{name}_proj", inputs, bias).view(length, -1, size).transpose(0, 1) for name in "qkv"
    )
    assert key.shape[0] == heads // group
    angles = torch.arange(length)[:, None] * _frequencies(config, size)[None]
    query, key = (_rotated(states, angles) for states in (query, key))
    key, value = (states.repeat_interleave(group, dim=0) for states in (key, value))
    scores = query @ key.transpose(1, 2) / math.sqrt(size)
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    mixed = (scores.softmax(-1) @ value).transpose(0, 1).reshape(length, heads * size)
    return linear(f"{prefix}.self_attn.o_proj", mixed, config["attention_bias"])


def _frequencies(config: Any, size: int) -> Tensor:
    rope = config["rope_parameters"]
    plain = [rope["rope_theta"] ** (-2 * pair / size) for pair in range(size // 2)]
    if rope["rope_type"] == "linear":
        return torch.tensor([frequency / rope["factor"] for frequency in plain])
    if rope["rope_type"] == "llama3":
        return torch.tensor([_llama3(frequency, rope) for frequency in plain])
    assert rope["rope_type"] == "default"
    return torch.tensor(plain)


def _llama3(frequency: float, rope: Any) -> float:
    """Low frequencies are divided by the factor, high ones stay, those between are mixed."""
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    share = min(1.0, max(0.0, (turns - low) / (high - low)))
    return share * frequency + (1 - share) * frequency / rope["factor"]


def _rotated(states: Tensor, angles: Tensor) -> Tensor:
    first, second = states.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _pooled(states: Tensor, folder: Path) -> Tensor:
    modules = {module["type"].rpartition(".")[2]: module for module in json.loads((folder / "modules.json").read_text())}
    flags = json.loads((folder / modules["Pooling"]["path"] / "config.json").read_text())
    # As vLLM does: the first entry that is true.
    kind = next(name for name, value in flags.items() if value is True)
    pooled = {
        "pooling_mode_mean_tokens": lambda: states.mean(0),
        "pooling_mode_lasttoken": lambda: states[-1],
        "pooling_mode_cls_token": lambda: states[0],
    }[kind]()
    return pooled / pooled.norm() if "Normalize" in modules else pooled
