"""An encoder's model as GGUF files hold it: hyperparameters under llama.cpp's keys, tensors under its names and in its order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, LlamaFileType, PoolingType, get_tensor_name_map
from gguf.quants import quantize
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from prune2vec.errors import CheckpointError
from prune2vec.exporting.gguf_vocabulary import vocabulary_of
from prune2vec.exporting.target import check_pooled, short_window
from prune2vec.models.gguf import Values, stored_names
from prune2vec.models.gguf_config import ARCHITECTURES, LARGEST_GEMMA
from prune2vec.models.selftest import is_causal
from prune2vec.pruning.portable import EncoderParts

POOLINGS = {"mean": PoolingType.MEAN, "cls": PoolingType.CLS, "lasttoken": PoolingType.LAST}
"""llama.cpp's number of each pooling that it has."""
_ONWARD = "export it to onnx, which takes any encoder"
# Positions and token types are few, and llama.cpp wants them in fp32.
_WHOLE = ("position_embd.weight", "token_types.weight")
_LARGEST_FP16 = 65504.0
BLOCK = 32
"""Numbers that share a scale in q8_0."""


@dataclass(frozen=True, kw_only=True)
class LlamaCppFamily:
    """How llama.cpp has a family of models.

    Attributes:
        arch: Its name there.
        keys: Entry of the config for each metadata key.
        activations: What its MLPs may compute, as configs say it.
        paired: Whether rotary dimensions of queries and keys lie in pairs, not in halves.
        shifted: Whether norms are stored as what they multiply with, one more than the model's weight.
        optional_biases: Whether projections may have biases where the config says so.
        scalings: Kinds of rotary embedding.
        period: Every so many layers one sees all tokens, the others a window of them; 0 where the config has no such layers.
    """

    arch: str
    keys: Mapping[str, str]
    activations: tuple[str, ...] = ("silu",)
    paired: bool = False
    shifted: bool = False
    optional_biases: bool = False
    scalings: tuple[str, ...] = ("default", "linear")
    period: int = 0


_LLAMA = LlamaCppFamily(
    arch="llama",
    keys=ARCHITECTURES["llama"].keys,
    paired=True,
    optional_biases=True,
    scalings=("default", "linear", "llama3"),
)
_GELU_TANH = ("gelu_pytorch_tanh",)
FAMILIES: dict[str, LlamaCppFamily] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": LlamaCppFamily(arch="qwen2", keys=ARCHITECTURES["qwen2"].keys),
    "qwen3": LlamaCppFamily(arch="qwen3", keys=ARCHITECTURES["qwen3"].keys),
    "gemma2": LlamaCppFamily(
        arch="gemma2", keys=ARCHITECTURES["gemma2"].keys, activations=_GELU_TANH, shifted=True, scalings=("default",), period=2
    ),
    "gemma3_text": LlamaCppFamily(
        arch="gemma3", keys=ARCHITECTURES["gemma3"].keys, activations=_GELU_TANH, shifted=True, period=6
    ),
    "bert": LlamaCppFamily(
        arch="bert",
        keys={
            "context_length": "max_position_embeddings",
            "embedding_length": "hidden_size",
            "block_count": "num_hidden_layers",
            "feed_forward_length": "intermediate_size",
            "attention.head_count": "num_attention_heads",
            "attention.layer_norm_epsilon": "layer_norm_eps",
        },
        # llama.cpp computes the tanh form, which differs by 1e-3 at most.
        activations=("gelu", "gelu_new", *_GELU_TANH),
        scalings=(),
    ),
}
"""By model type."""


def header_of(parts: EncoderParts) -> dict[str, Any]:
    """Return a file's metadata, ``general.architecture`` and the file type aside.

    Raises:
        CheckpointError: The file cannot tell, or llama.cpp cannot compute, this encoder; the message says why and what can.
        UnsupportedModel: Nobody can tell which way the model looks.
    """
    family = _family(parts)
    config, causal = parts.model.config, is_causal(parts.model)
    reason = _inexpressible(family, config, parts, causal=causal)
    if reason is not None:
        raise CheckpointError(f"llama.cpp cannot compute this encoder: {reason}; {_ONWARD}")
    said = {key: value for key, name in family.keys.items() if (value := getattr(config, name, None)) is not None}
    said |= {"attention.causal": causal, "pooling_type": int(POOLINGS[parts.pooling])}
    rows = rows_of(parts.model)
    said |= {"vocab_size": rows}
    said |= _rotary(config) if family.scalings else {}
    told = {f"{family.arch}.{key}": value for key, value in said.items()} | vocabulary_of(parts.tokenizer, rows)
    if (family.arch == "bert") != (told["tokenizer.ggml.model"] == "bert"):
        raise CheckpointError(
            f"llama.cpp has BERT with WordPiece and other models without it, this encoder is otherwise: {_ONWARD}"
        )
    if family.arch == "bert":
        told["tokenizer.ggml.token_type_count"] = config.type_vocab_size
    return {"general.type": "model", **told}


def rows_of(model: PreTrainedModel) -> int:
    """Return how many rows the token embeddings have."""
    embeddings: Any = model.get_input_embeddings()
    return int(embeddings.weight.shape[0])


def _family(parts: EncoderParts) -> LlamaCppFamily:
    """Refuse what no GGUF file holds, whatever the family, and return the family."""
    family = FAMILIES.get(parts.model.config.model_type)
    if parts.layout:
        raise CheckpointError(f"llama.cpp has no models whose blocks are not all alike: {_ONWARD}, or to vllm")
    check_pooled(parts, "llama.cpp", POOLINGS)
    if family is None:
        raise CheckpointError(
            f"prune2vec writes GGUF files of {', '.join(FAMILIES)}; this encoder's model type is {parts.model.config.model_type}: "
            f"{_ONWARD}"
        )
    return family


def _inexpressible(family: LlamaCppFamily, config: Any, parts: EncoderParts, *, causal: bool) -> str | None:
    """Return what llama.cpp would compute differently, or None."""
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in family.activations:
        return f"its MLPs use {activation}; expected {' or '.join(family.activations)}"
    if family.arch == "bert":
        kind = getattr(config, "position_embedding_type", "absolute")
        return f"its positions are {kind}; expected absolute" if kind != "absolute" else None
    if not family.optional_biases and getattr(config, "attention_bias", False):
        return f"its attention has biases, for which {family.arch} has no place there"
    for rope, scalings in zip(rope_parts(config), (family.scalings, ("default",)), strict=False):
        if (kind := rope.get("rope_type", "default")) not in scalings:
            return f"its rotary embedding is of type {kind!r}; expected one of {', '.join(scalings)}"
        if rope.get("partial_rotary_factor", 1.0) != 1.0:
            return "it rotates only a part of each head"
    return _gemma(family, config, parts, causal=causal) if family.period else _window(config, parts)


def _window(config: Any, parts: EncoderParts) -> str | None:
    window = short_window(config, parts.max_length)
    if window is None:
        return None
    return f"its attention sees {window} tokens back, fewer than its longest text ({parts.max_length} tokens)"


def _gemma(family: LlamaCppFamily, config: Any, parts: EncoderParts, *, causal: bool) -> str | None:
    """Return what differs in what llama.cpp takes for granted of Gemma."""
    if not causal:
        return "it is a Gemma whose tokens see those after them"
    layers = config.num_hidden_layers
    usual = ["full_attention" if layer % family.period == 0 else "sliding_attention" for layer in range(1, layers + 1)]
    # Without rotary bases of their own, layers with a window are the others where no text is longer.
    if list(config.layer_types) != usual and (family.arch == "gemma3" or _window(config, parts)):
        return (
            f"other layers than every {family.period}th see all tokens, which llama.cpp takes for granted: keep leading "
            f"layers, or such that each {family.period}th of those kept is one that sees all"
        )
    largest = layers == LARGEST_GEMMA[family.arch]
    scale = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    if config.query_pre_attn_scalar != scale:
        return f"its attention is scaled by the root of {config.query_pre_attn_scalar}; expected {scale}"
    if family.arch == "gemma2" and config.attn_logit_softcapping is None:
        return "its attention has no attn_logit_softcapping, and llama.cpp takes 50 then"
    return None


def _head_dim(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_parts(config: Any) -> list[dict[str, Any]]:
    """Return the rotary settings: one, or of layers that see all tokens and of those that see a window of them."""
    parameters = config.rope_parameters
    return [parameters[kind] for kind in ("full_attention", "sliding_attention") if kind in parameters] or [parameters]


def _rotary(config: Any) -> dict[str, Any]:
    whole, *windowed = rope_parts(config)
    width = _head_dim(config)
    said: dict[str, Any] = {
        "attention.key_length": width,
        "attention.value_length": width,
        "rope.dimension_count": width,
        "rope.freq_base": float(whole["rope_theta"]),
    }
    if windowed:
        said["rope.freq_base_swa"] = float(windowed[0]["rope_theta"])
    if whole.get("rope_type") == "linear":
        said |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(whole["factor"])}
    return said


def tensors_of(model: PreTrainedModel) -> Iterator[tuple[str, Values]]:
    """Yield a model's tensors in float32, under llama.cpp's names and as it wants their values and order.

    Raises:
        CheckpointError: A tensor has no place there.
    """
    family, config = FAMILIES[model.config.model_type], model.config
    number = next(number for number, name in MODEL_ARCH_NAMES.items() if name == family.arch)
    names = get_tensor_name_map(number, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        (stored,) = stored_names(name, names.get_name)
        if names.get_name(stored.rpartition(".")[0]) is None:
            raise CheckpointError(f"tensor {name} of this encoder has no place in a GGUF file of {family.arch}: {_ONWARD}")
        yield stored, _values(family, config, stored, tensor)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "llama3":
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].double().numpy()
        plain = rope["rope_theta"] ** -(np.arange(0, _head_dim(config), 2) / _head_dim(config))
        yield "rope_freqs.weight", (plain / scaled).astype(np.float32)


def _values(family: LlamaCppFamily, config: Any, stored: str, tensor: Tensor) -> Values:
    values: Values = tensor.detach().float().numpy()
    heads = {"attn_q": config.num_attention_heads, "attn_k": getattr(config, "num_key_value_heads", None)}
    part = stored.split(".")[-2]
    if family.paired and part in heads:
        halves = values.reshape(heads[part], 2, -1, *values.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
    return values + 1 if family.shifted and part.endswith("norm") else values


def write_file(path: Path, parts: EncoderParts, header: Mapping[str, Any], *, name: str, precision: str) -> None:
    """Write a GGUF file.

    Args:
        path: The file.
        parts: The encoder.
        header: What ``header_of`` returned.
        name: What the file calls the model.
        precision: Of matrices: ``fp16``, or ``q8_0`` (8 bits and one scale for 32 numbers), in which those whose rows are no
            multiple of 32 long are in fp16. Vectors are in fp32.

    Raises:
        CheckpointError: A tensor has no place, or a number is beyond fp16.
    """
    writer = GGUFWriter(path, FAMILIES[parts.model.config.model_type].arch)
    add: dict[type, Any] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        float: writer.add_float32,
        str: writer.add_string,
        list: writer.add_array,
    }
    kind = LlamaFileType.MOSTLY_Q8_0 if precision == "q8_0" else LlamaFileType.MOSTLY_F16
    for key, value in {"general.name": name, "general.file_type": int(kind), **header}.items():
        add[type(value)](key, value)
    if precision == "q8_0":
        writer.add_quantization_version(2)
    for stored, values in tensors_of(parts.model):
        dtype = stored_type(stored, values, precision)
        if dtype != GGMLQuantizationType.F32 and not np.abs(values).max() <= _LARGEST_FP16:
            raise CheckpointError(f"tensor {stored} has numbers beyond fp16 (65504): {_ONWARD}")
        writer.add_tensor(stored, quantize(values, dtype), raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored_type(stored: str, values: Values, precision: str) -> GGMLQuantizationType:
    """Return the dtype of a tensor in a file of some precision."""
    if values.ndim < 2 or stored in _WHOLE:
        return GGMLQuantizationType.F32
    return GGMLQuantizationType.Q8_0 if precision == "q8_0" and values.shape[-1] % BLOCK == 0 else GGMLQuantizationType.F16
