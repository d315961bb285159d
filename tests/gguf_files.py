"""Tiny GGUF files of several architectures, written with the names and the order that llama.cpp's converter uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tests.tiny import tiny_model, tiny_tokenizer

HEADS, KV_HEADS = 4, 2
_NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm",
}  # fmt: skip
_BLOCK_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.qkv_proj": "attn_qkv", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "ln_1": "attn_norm", "ln_2": "ffn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp", "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp", "mlp.shared_expert.down_proj": "ffn_down_shexp",
}  # fmt: skip
_GEMMA_NAMES = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
_GEMMAS = ("gemma2", "gemma3")
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_HALF_TURNED = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
# What the tiny models need beside tests/tiny.py's sizes, by the name of the architecture in files.
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen2": ("qwen2", {"use_sliding_window": False, "max_window_layers": 28}),
    "qwen3": ("qwen3", {}),
    "qwen2moe": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 24, "norm_topk_prob": False}),
    "qwen3moe": ("qwen3_moe", {**_EXPERTS, "head_dim": 8, "norm_topk_prob": True}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 8}),
    # llama.cpp states no pattern: every sixth layer, as in the real ones.
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 8, "num_hidden_layers": 7, "sliding_window_pattern": 6}),
    "phi3": ("phi3", {"sliding_window": 16}),
    "gpt2": ("gpt2", {"n_inner": 128}),
    "starcoder2": ("starcoder2", {"use_bias": True}),
    "stablelm": ("stablelm", {"use_qkv_bias": True, "rope_parameters": _HALF_TURNED}),
    "nemotron": ("nemotron", {"rope_parameters": _HALF_TURNED}),
}  # fmt: skip


def tiny_of(arch: str, **changes: Any) -> PreTrainedModel:
    """Return a tiny model of a GGUF architecture."""
    family, own = TINY[arch]
    return tiny_model(family, **{**own, **changes})


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rotary halves as llama.cpp stores them."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def tensors_of(arch: str, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Return a model's tensors as llama.cpp's converter names, orders and changes them."""
    found: dict[str, np.ndarray] = {}
    for name, tensor in model.state_dict().items():
        value = tensor.float().numpy()
        inside = re.fullmatch(r"(?:layers|h)\.(\d+)\.(.+?)(\.weight|\.bias)?", name)
        if inside is None:
            stem, end = name.rsplit(".", 1)
            stored, end = _NAMES[stem], f".{end}"
        elif inside[2] == "mlp.experts.gate_up_proj":
            for part, half in zip(("gate", "up"), np.split(value, 2, axis=1), strict=True):
                found[f"blk.{inside[1]}.ffn_{part}_exps.weight"] = half
            continue
        else:
            names = {**_BLOCK_NAMES, **(_GEMMA_NAMES if arch in _GEMMAS else {})}
            stored, end = f"blk.{inside[1]}.{names[inside[2]]}", inside[3] or ".weight"
        found[stored + end] = np.ascontiguousarray(_changed(arch, stored, end, value))
    return found


def _changed(arch: str, stored: str, end: str, value: np.ndarray) -> np.ndarray:
    leaf = stored.split(".")[-1]
    if arch == "llama" and leaf in ("attn_q", "attn_k"):
        return permuted(value, HEADS if leaf == "attn_q" else KV_HEADS)
    if (arch in _GEMMAS or (arch == "nemotron" and end == ".weight")) and leaf.endswith("norm"):
        return value + 1
    if arch == "gpt2" and end == ".weight" and leaf in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"):
        return value.T
    return value.squeeze(0) if leaf == "ffn_gate_inp_shexp" else value


def metadata_of(arch: str, model: PreTrainedModel) -> dict[str, Any]:
    """Return what llama.cpp's converter writes about a model and the tiny tokeniser, for texts, numbers and lists."""
    config = model.config
    said: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": getattr(config, "intermediate_size", None) or config.n_inner,
        "attention.head_count": config.num_attention_heads,
    }
    for key, names in {
        "attention.head_count_kv": ("num_key_value_heads",),
        "attention.layer_norm_rms_epsilon": ("rms_norm_eps",),
        "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
        "attention.key_length": ("head_dim",) if arch in ("qwen3", "qwen3moe", *_GEMMAS) else (),
        "attention.sliding_window": ("sliding_window",) if arch in ("phi3", *_GEMMAS) else (),
        "attn_logit_softcapping": ("attn_logit_softcapping",) if arch == "gemma2" else (),
        "final_logit_softcapping": ("final_logit_softcapping",) if arch == "gemma2" else (),
        "expert_count": ("num_experts",),
        "expert_used_count": ("num_experts_per_tok",),
        "expert_feed_forward_length": ("moe_intermediate_size",),
        "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
        "use_parallel_residual": ("use_parallel_residual",),
    }.items():
        said.update((key, getattr(config, name)) for name in names if hasattr(config, name))
    rope = getattr(config, "rope_parameters", None)
    if rope:
        full = rope.get("full_attention", rope)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        said["rope.freq_base"] = float(full["rope_theta"])
        said["rope.dimension_count"] = int(width * full.get("partial_rotary_factor", 1.0))
    return {
        "general.type": "model",
        "general.name": "tiny",
        **{f"{arch}.{k}": v for k, v in said.items()},
        **tokenizer_metadata(),
    }


def tokenizer_metadata() -> dict[str, Any]:
    """Return what files say of the tiny tokeniser."""
    backend = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    vocab = sorted(backend["model"]["vocab"].items(), key=lambda item: item[1])
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [token for token, _ in vocab],
        "tokenizer.ggml.token_type": [3 if number < 4 else 1 for _, number in vocab],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in backend["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


def write_gguf(
    path: Path,
    arch: str = "llama",
    model: PreTrainedModel | None = None,
    *,
    said: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray | None] | None = None,
    kind: Callable[[str, np.ndarray], str | None] = lambda name, value: None,
) -> PreTrainedModel:
    """Write a model (by default the tiny one of its architecture) as a GGUF file and return it.

    Args:
        path: The file.
        arch: Architecture.
        model: The model.
        said: Metadata to change; None leaves a key out. Keys that begin with a dot belong to the architecture.
        tensors: Tensors to change or to add; None leaves one out.
        kind: The dtype of a tensor; None for that of its array.
    """
    model = model or tiny_of(arch)
    writer = gguf.GGUFWriter(path, arch)
    for key, value in {
        **metadata_of(arch, model),
        **{arch + k if k[0] == "." else k: v for k, v in (said or {}).items()},
    }.items():
        if value is not None:
            _add(writer, key, value)
    for name, array in {**tensors_of(arch, model), **(tensors or {})}.items():
        wanted = kind(name, array) if array is not None else None
        if wanted is not None:
            number = gguf.GGMLQuantizationType[wanted]
            writer.add_tensor(name, gguf.quants.quantize(array, number), raw_dtype=number)
        elif array is not None:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    for kinds, add in {
        bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array,
    }.items():  # fmt: skip
        if isinstance(value, kinds):
            add(key, value)
            return


@torch.no_grad()
def states(model: PreTrainedModel) -> torch.Tensor:
    """Return a model's last hidden states for two rows of 40 fixed ids."""
    ids = torch.randint(4, 384, (2, 40), generator=torch.Generator().manual_seed(0))
    output: torch.Tensor = model.eval()(input_ids=ids, use_cache=False)[0]
    return output
