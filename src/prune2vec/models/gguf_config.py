"""From a GGUF file's metadata to a model's config: every key that may change the maths is carried over, or refused by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import AutoConfig, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prune2vec.errors import ModelError, explained
from prune2vec.models.gguf_file import GGUFFile
from prune2vec.progress import say

_SHAPE = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
}
_RMS = {**_SHAPE, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_EXPERTS = {
    **_RMS,
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How files of one architecture say what a config says.

    Attributes:
        model_type: What transformers calls it.
        keys: Entry of the config for each metadata key that every file has.
        defaults: Metadata keys that a file may leave out, with the value that llama.cpp takes then.
        fixed: Entries of the config that the architecture implies.
        biases: Entry of the config that says whether a tensor is there.
        scalings: Kinds of rotary scaling that are carried over.
        rotary: ``full``, ``partial`` (a part of each head may be turned), or none: positions are learned.
    """

    model_type: str
    keys: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    biases: Mapping[str, str] = field(default_factory=dict)
    scalings: tuple[str, ...] = ()
    rotary: str = "full"


_GEMMA = {
    **_RMS,
    "attention.sliding_window": "sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        model_type="llama",
        keys=_RMS,
        biases={"blk.0.attn_q.bias": "attention_bias", "blk.0.ffn_up.bias": "mlp_bias"},
        scalings=("linear", "yarn", "llama3"),
    ),
    "qwen2": Architecture(model_type="qwen2", keys=_RMS, scalings=("linear", "yarn")),
    "qwen3": Architecture(model_type="qwen3", keys=_RMS, scalings=("linear", "yarn")),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        keys={**_EXPERTS, "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
        fixed={"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        keys=_EXPERTS,
        fixed={"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
        scalings=("linear", "yarn"),
    ),
    "gemma2": Architecture(
        model_type="gemma2",
        keys={**_GEMMA, "attn_logit_softcapping": "attn_logit_softcapping"},
        defaults={"attention.sliding_window": 4096, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": Architecture(
        model_type="gemma3_text", keys=_GEMMA, defaults={"final_logit_softcapping": None}, scalings=("linear",)
    ),
    "phi3": Architecture(
        model_type="phi3",
        keys={**_RMS, "attention.sliding_window": "sliding_window"},
        defaults={"attention.sliding_window": None},
        rotary="partial",
    ),
    "gpt2": Architecture(
        model_type="gpt2",
        keys={
            "context_length": "n_positions",
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        rotary="none",
    ),
    "starcoder2": Architecture(
        model_type="starcoder2",
        keys={**_SHAPE, "attention.layer_norm_epsilon": "norm_epsilon"},
        biases={"blk.0.attn_q.bias": "use_bias"},
    ),
    "stablelm": Architecture(
        model_type="stablelm",
        keys={**_SHAPE, "attention.layer_norm_epsilon": "layer_norm_eps"},
        biases={"blk.0.attn_q.bias": "use_qkv_bias"},
        rotary="partial",
    ),
    "nemotron": Architecture(
        model_type="nemotron", keys={**_SHAPE, "attention.layer_norm_epsilon": "norm_eps"}, rotary="partial"
    ),
}

# Keys that change nothing at these values, and are refused at others.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "rope.scale_linear": (1.0,),
    "rope.scaling.finetuned": (True, False),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "tensor_data_layout": ("Meta AI original pth",),
}
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the Gemmas that scale attention by the width of the model instead of the head's; nothing in a file says so."""
_ROPE_TENSOR = "rope_freqs.weight"


def config_of(file: GGUFFile) -> PretrainedConfig:
    """Return the config that a file's metadata stand for.

    Raises:
        ModelError: The architecture is not supported, a key is missing, of the wrong type or not understood, or the config
            that transformers makes of it says something else.
    """
    spec = ARCHITECTURES.get(file.architecture)
    if spec is None:
        raise ModelError(
            f"{file.path.name} is of architecture {file.architecture!r}, whose GGUF files prune2vec cannot read; it reads "
            f"{', '.join(sorted(ARCHITECTURES))}; give the original model folder instead"
        )
    said = _Said(file)
    entries = _entries(said, spec)
    said.check_rest()
    with explained(ModelError, f"{file.path.name}: its metadata make no {spec.model_type} config"):
        config: PretrainedConfig = AutoConfig.for_model(spec.model_type, **entries)
    for name, value in entries.items():
        if name != "rope_parameters" and getattr(config, name, None) != value:
            raise ModelError(
                f"{file.path.name}: {name} is {value} in its metadata, {getattr(config, name, None)} in its config"
            )
    return config


class _Said:
    """What a file says under its architecture's name, and which of it was asked for."""

    def __init__(self, file: GGUFFile) -> None:
        self.file, self.name = file, file.path.name
        prefix = f"{file.architecture}."
        self.rest = {key.removeprefix(prefix): value for key, value in file.metadata.items() if key.startswith(prefix)}

    def take(self, key: str, default: Any = ...) -> Any:
        """Return a positive number (or ``default``, where the key may be missing)."""
        value = self.rest.pop(key, default)
        if value is ...:
            raise ModelError(f"{self.name} lacks the metadata key {self.file.architecture}.{key}; convert it again")
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        if value is default or (isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf):
            return value
        raise self.refused(key, value, "expected one positive number")

    def refused(self, key: str, value: Any, expected: str) -> ModelError:
        """Return the error about a key whose value is not carried over."""
        shown = f"{value!r:.60}"
        return ModelError(
            f"{self.name}: metadata key {self.file.architecture}.{key} is {shown}, {expected}; give the original model folder"
        )

    def check_rest(self) -> None:
        """Refuse whatever was not asked for and may change what the model computes."""
        pooling = self.rest.pop("pooling_type", None)
        if pooling is not None:
            say(f"{self.name} says pooling_type {pooling} (1 mean, 2 cls, 3 last token): it is not carried over, use --pooling")
        for key, value in self.rest.items():
            if value not in _NEUTRAL.get(key, ()):
                raise self.refused(key, value, "which prune2vec does not carry over")


def _entries(said: _Said, spec: Architecture) -> dict[str, Any]:
    file = said.file
    if "attention.head_count_kv" in spec.keys:
        said.rest.setdefault("attention.head_count_kv", said.rest.get("attention.head_count"))
    # llama.cpp's converter writes a window of 0 for a Phi without one.
    if file.architecture == "phi3" and said.rest.get("attention.sliding_window") == 0:
        del said.rest["attention.sliding_window"]
    entries = {name: said.take(key, spec.defaults.get(key, ...)) for key, name in spec.keys.items()}
    _check_whole_numbers(said, spec, entries)
    if "token_embd.weight" not in file.tensors:
        raise ModelError(f"{said.name} lacks tensor token_embd.weight, the token embeddings; fetch or convert it again")
    rows = file.tensors["token_embd.weight"].shape[0]
    if said.take("vocab_size", rows) != rows:
        raise ModelError(f"{said.name}: its metadata say another vocab_size than the {rows} rows of token_embd.weight")
    entries |= {"vocab_size": rows, "tie_word_embeddings": "output.weight" not in file.tensors, **spec.fixed}
    entries |= {name: tensor in file.tensors for tensor, name in spec.biases.items()}
    for role, key in {"bos": "bos", "eos": "eos", "pad": "padding"}.items():
        entries[f"{role}_token_id"] = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
    if file.architecture == "stablelm":
        entries["use_parallel_residual"] = bool(said.rest.pop("use_parallel_residual", True))
    if spec.rotary != "none":
        entries |= _heads_and_rotary(said, spec, entries)
    return entries


def _check_whole_numbers(said: _Said, spec: Architecture, entries: Mapping[str, Any]) -> None:
    for key, name in spec.keys.items():
        whole = not key.endswith(("epsilon", "softcapping"))
        if whole and entries[name] is not None and not isinstance(entries[name], int):
            raise said.refused(key, entries[name], "expected a whole number")
    blocks = {int(name.split(".")[1]) for name in said.file.tensors if name.startswith("blk.") and name.split(".")[1].isdigit()}
    count = entries.get("num_hidden_layers", entries.get("n_layer"))
    if blocks != set(range(len(blocks))) or len(blocks) != count:
        raise said.refused("block_count", count, f"but the file holds tensors of {len(blocks)} blocks")


def _heads_and_rotary(said: _Said, spec: Architecture, entries: Mapping[str, Any]) -> dict[str, Any]:
    heads, width = entries["num_attention_heads"], entries["hidden_size"]
    if "attention.key_length" not in said.rest and width % heads:
        raise said.refused("attention.head_count", heads, f"expected a divisor of embedding_length ({width})")
    head_dim = said.take("attention.key_length", width // heads)
    if said.take("attention.value_length", head_dim) != head_dim:
        raise said.refused("attention.value_length", "another number", f"expected key_length ({head_dim})")
    turned = said.take("rope.dimension_count", head_dim)
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": float(said.take("rope.freq_base", 10000.0))}
    if spec.rotary == "partial":
        parameters["partial_rotary_factor"] = turned / head_dim
    elif turned != head_dim:
        raise said.refused("rope.dimension_count", turned, f"expected the width of a head ({head_dim})")
    parameters |= _scaling(said, spec, parameters, {**entries, "head_dim": head_dim})
    if not spec.model_type.startswith("gemma"):
        return {"head_dim": head_dim, "rope_parameters": parameters}
    largest = entries["num_hidden_layers"] == LARGEST_GEMMA[said.file.architecture]
    found = {"head_dim": head_dim, "query_pre_attn_scalar": width // heads if largest else head_dim}
    if spec.model_type == "gemma2":
        return {**found, "rope_parameters": parameters}
    local = {"rope_type": "default", "rope_theta": float(said.take("rope.freq_base_swa", 10000.0))}
    parts = {"full_attention": parameters, "sliding_attention": local}
    return {**found, "layer_types": _layer_types(said, entries["num_hidden_layers"]), "rope_parameters": parts}


def _layer_types(said: _Said, count: int) -> list[str]:
    """Return which of Gemma 3's layers look at a window: five of six, unless the file says otherwise."""
    pattern = said.rest.pop("attention.sliding_window_pattern", 6)
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        pattern = [(layer + 1) % pattern != 0 for layer in range(count)]
    if not isinstance(pattern, list) or len(pattern) != count:
        raise said.refused(
            "attention.sliding_window_pattern", pattern, f"expected a number, or one entry for each of {count} layers"
        )
    return ["sliding_attention" if local else "full_attention" for local in pattern]


def _scaling(said: _Said, spec: Architecture, parameters: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``rope_parameters`` for the file's rotary scaling."""
    factor = said.take("rope.scaling.factor", None)
    kind = said.rest.pop("rope.scaling.type", "none" if factor in (None, 1.0) else "linear")
    original = said.take("rope.scaling.original_context_length", None)
    if kind == "none" and _ROPE_TENSOR in said.file.tensors:
        return _llama3(said, spec, parameters, entries)
    if kind == "none":
        return {}
    if kind not in spec.scalings or factor is None or _ROPE_TENSOR in said.file.tensors:
        raise said.refused("rope.scaling.type", kind, f"expected {' or '.join(spec.scalings) or 'none'} with its factor alone")
    found = {"rope_type": kind, "factor": float(factor)}
    if kind == "linear":
        return found
    if original is None:
        raise said.refused("rope.scaling.type", kind, "which needs rope.scaling.original_context_length")
    for end, usual in (("fast", 32.0), ("slow", 1.0)):
        found[f"beta_{end}"] = float(said.take(f"rope.scaling.yarn_beta_{end}", usual))
    return {**found, "original_max_position_embeddings": int(original)}


def _llama3(said: _Said, spec: Architecture, parameters: Mapping[str, Any], entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scaling of Llama 3.1 to 3.3 that makes the file's table of factors, to seven digits."""
    factors = said.file.values(said.file.tensors[_ROPE_TENSOR]).ravel()
    if np.all(factors == 1):
        return {}
    if "llama3" in spec.scalings:
        found = {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        shape = {name: entries[name] for name in ("hidden_size", "num_attention_heads", "head_dim")}
        config = AutoConfig.for_model(spec.model_type, **shape, rope_parameters={**parameters, **found})
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy()
        plain = parameters["rope_theta"] ** -(np.arange(0, entries["head_dim"], 2) / entries["head_dim"])
        if scaled.shape == factors.shape and np.allclose(scaled * factors, plain, rtol=1e-5, atol=0):
            return found
    raise ModelError(
        f"{said.name}: tensor {_ROPE_TENSOR} scales the rotary frequencies in a way other than Llama 3's with its usual "
        "parameters; give the original model folder"
    )
