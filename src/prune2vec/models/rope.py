"""Which texts may share a forward pass: with some rotary embeddings the longest one decides on the frequencies of all."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

LengthKind = Callable[[int], Hashable]


def length_kind(model: PreTrainedModel) -> LengthKind:
    """Return what tells the kind of a text by its number of tokens; texts of different kinds must not share a pass.

    transformers takes the frequencies of a pass from its longest text. With longrope there are two sets, one for texts
    within the positions that the model was first trained with and one for longer ones; with dynamic scaling each length
    beyond has its own (see ``forget_longest_text``).
    """
    entries = rope_entries(model.config)
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    switches = [
        int(entry.get("original_max_position_embeddings") or positions) for entry in entries if entry["rope_type"] == "longrope"
    ]
    dynamic = any("dynamic" in entry["rope_type"] for entry in entries)
    return lambda length: (sum(length > switch for switch in switches), length if dynamic and length > positions else 0)


def forget_longest_text(model: PreTrainedModel) -> None:
    """Make a model compute the frequencies of every pass from that pass alone; called once, by whoever runs rows through it.

    With dynamic scaling its rotary modules would keep those of the longest text that they have seen.
    """
    if any("dynamic" in entry["rope_type"] for entry in rope_entries(model.config)):
        for module in model.modules():
            if hasattr(module, "max_seq_len_cached") and _forget not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_forget)


def rope_entries(config: Any) -> list[dict[str, Any]]:
    """Return the rotary settings of a config that name their type: one, or one for each kind of attention."""
    parameters = getattr(config, "rope_parameters", None) or {}
    entries = [parameters, *parameters.values()] if isinstance(parameters, dict) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("rope_type"), str)]


def _forget(module: nn.Module, args: tuple[Any, ...]) -> None:
    # Any length is then beyond what it has seen, and its frequencies are computed; up to the limit they are the usual ones.
    for name in vars(module):
        if name.endswith("max_seq_len_cached"):
            setattr(module, name, 0)
