"""An encoder as a DeciLM checkpoint: its config.json and its tensors.

A DeciLM block is a Llama block (RMSNorm, rotary attention, gated SiLU MLP) whose attention or MLP may be missing and
whose MLP may have a width of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import Layout, layout_of
from prune2vec.pruning.portable import legacy_rope_entries

_SAME = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_parameters",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


@dataclass(frozen=True, kw_only=True)
class DeciLM:
    """A checkpoint in memory.

    Attributes:
        config: Content of config.json.
        tensors: The weights, under the names of a causal LM; there is no LM head.
        zeroed: Number of the block whose missing attention is written as zeros, because vLLM's code needs one there.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    zeroed: int | None = None


def to_decilm(model: PreTrainedModel) -> DeciLM:
    """Return an expressible model as a DeciLM checkpoint.

    Raises:
        CheckpointError: The model has a tensor that the layout has no place for, or lacks one.
    """
    layout = layout_of(model)
    tensors = {f"model.{name}": tensor.detach() for name, tensor in model.state_dict().items()}
    zeroed = _leading_gap(layout)
    config = _config(model.config, layout, zeroed)
    if zeroed is not None:
        tensors |= _zero_attention(config, zeroed, model.dtype)
    _check_tensors(tensors, config)
    return DeciLM(config=config, tensors=tensors, zeroed=zeroed)


def _leading_gap(layout: Layout) -> int | None:
    """Return the number of the first block that does anything, if it lacks attention; else None.

    vLLM's block starts the residual stream in its attention: an MLP before the first attention finds none.
    """
    first = next(number for number, block in enumerate(layout) if block.attention or block.mlp)
    return None if layout[first].attention else first


def _config(config: Any, layout: Layout, zeroed: int | None) -> dict[str, Any]:
    kind = config.model_type
    group = config.num_attention_heads // config.num_key_value_heads
    blocks = []
    for number, block in enumerate(layout):
        attention = {"no_op": False, "n_heads_in_group": group} if block.attention or number == zeroed else {"no_op": True}
        ffn = {"no_op": False, "intermediate_size": block.width} if block.mlp else {"no_op": True}
        blocks.append({"attention": attention, "ffn": ffn})
    entries = {name: value for name in _SAME if (value := getattr(config, name, None)) is not None}
    dtype = str(config.dtype).removeprefix("torch.")
    return {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "auto_map": {"AutoConfig": "configuration_decilm.DeciLMConfig"},
        **entries,
        **legacy_rope_entries(entries),
        "head_dim": getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        "num_hidden_layers": len(layout),
        # Nothing reads this one; the widths are the blocks'.
        "intermediate_size": max((block.width or 1 for block in layout), default=1),
        "attention_bias": bool(getattr(config, "attention_bias", False)),
        "mlp_bias": bool(getattr(config, "mlp_bias", False)),
        # Qwen2 has biases on query, key and value, and none on the output.
        **({"qkv_bias": True} if kind == "qwen2" else {}),
        # There is no LM head to load.
        "tie_word_embeddings": True,
        "dtype": dtype,
        "torch_dtype": dtype,
        "block_configs": blocks,
    }


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor that vLLM makes for such a config."""
    hidden, head = config["hidden_size"], config["head_dim"]
    queries = config["num_attention_heads"] * head
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for number, block in enumerate(config["block_configs"]):
        prefix = f"model.layers.{number}"
        if not block["attention"]["no_op"]:
            keys = queries // block["attention"]["n_heads_in_group"]
            shapes[f"{prefix}.input_layernorm.weight"] = (hidden,)
            inner = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
            with_bias = config.get("qkv_bias", config["attention_bias"])
            for name, width in inner.items():
                shapes |= _linear(f"{prefix}.self_attn.{name}", width, hidden, with_bias)
            shapes |= _linear(f"{prefix}.self_attn.o_proj", hidden, queries, config["attention_bias"])
        if not block["ffn"]["no_op"]:
            width = block["ffn"]["intermediate_size"]
            shapes[f"{prefix}.post_attention_layernorm.weight"] = (hidden,)
            for name in ("gate_proj", "up_proj"):
                shapes |= _linear(f"{prefix}.mlp.{name}", width, hidden, config["mlp_bias"])
            shapes |= _linear(f"{prefix}.mlp.down_proj", hidden, width, config["mlp_bias"])
    return shapes


def _linear(path: str, outputs: int, inputs: int, bias: bool) -> dict[str, tuple[int, ...]]:
    return {f"{path}.weight": (outputs, inputs), **({f"{path}.bias": (outputs,)} if bias else {})}


def _zero_attention(config: Mapping[str, Any], number: int, dtype: torch.dtype) -> dict[str, Tensor]:
    prefix = f"model.layers.{number}."
    parts = (f"{prefix}self_attn.", f"{prefix}input_layernorm.")
    return {name: torch.zeros(shape, dtype=dtype) for name, shape in expected_shapes(config).items() if name.startswith(parts)}


def _check_tensors(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    expected = expected_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise CheckpointError(
            f"vLLM's DeciLM layout cannot express this encoder: {name} has shape {found.get(name, 'none (it is missing)')}, "
            f"the layout has {expected.get(name, 'no place for it')} ({len(wrong)} such tensors)"
        )
