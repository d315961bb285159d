"""What vLLM's DeciLM layout cannot express: each rule returns the reason why it refuses a model, or None."""

from __future__ import annotations

from collections.abc import Callable

from transformers import PreTrainedModel

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import layout_of

# Model types whose blocks are Llama's, the biases of the projections aside.
MODEL_TYPES = ("llama", "mistral", "qwen2")
_ROPE_TYPES = ("default", "linear", "llama3")


def check_expressible(model: PreTrainedModel, max_length: int) -> None:
    """Refuse a model that the layout would compute differently.

    Args:
        model: The encoder's base model.
        max_length: Longest text in tokens; a sliding window that is no shorter changes nothing.

    Raises:
        CheckpointError: Says what the layout cannot express.
    """
    for check in _CHECKS:
        reason = check(model, max_length)
        if reason:
            raise CheckpointError(f"vLLM's DeciLM layout cannot express this encoder: {reason}")


def _family(model: PreTrainedModel, max_length: int) -> str | None:
    kind = model.config.model_type
    if kind in MODEL_TYPES:
        return None
    return f"its model type is {kind}, whose blocks are not Llama's; expected one of {', '.join(MODEL_TYPES)}"


def _direction(model: PreTrainedModel, max_length: int) -> str | None:
    config = model.config
    two_ways = getattr(config, "is_causal", True) is False or getattr(config, "use_bidirectional_attention", False)
    return "its attention is bidirectional, the layout's is causal" if two_ways else None


def _window(model: PreTrainedModel, max_length: int) -> str | None:
    window = getattr(model.config, "sliding_window", None)
    kinds = getattr(model.config, "layer_types", None)
    if window is not None and (kinds is None or "sliding_attention" in kinds) and window < max_length:
        return f"its attention sees {window} tokens back, fewer than the longest text ({max_length} tokens)"
    return None


def _rope(model: PreTrainedModel, max_length: int) -> str | None:
    rope = getattr(model.config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind not in _ROPE_TYPES:
        return f"its rotary embedding is of type {kind!r}; expected one of {', '.join(_ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "it rotates only a part of each head"
    return None


def _activation(model: PreTrainedModel, max_length: int) -> str | None:
    name = model.config.hidden_act
    return None if name == "silu" else f"its MLPs use {name}; expected silu"


def _some_attention(model: PreTrainedModel, max_length: int) -> str | None:
    there = any(block.attention for block in layout_of(model))
    return None if there else "no block has attention, and vLLM takes the number of key-value heads from one that has"


_CHECKS: tuple[Callable[[PreTrainedModel, int], str | None], ...] = (
    _family,
    _direction,
    _window,
    _rope,
    _activation,
    _some_attention,
)
