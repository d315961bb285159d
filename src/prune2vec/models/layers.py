"""Blocks that stay and go: their config, their tensors' names, and building the model that is left."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import PlanError
from prune2vec.models.block_layout import Layout, apply_layout
from prune2vec.models.families import Family, block_list, cut_config_entries, find_family, num_layers


def check_keep(keep: Sequence[int], count: int) -> None:
    """Refuse kept layers that a model of ``count`` layers does not have.

    Raises:
        PlanError: Nothing is kept, a layer repeats, the order does not ascend, or a layer is beyond the model.
    """
    if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0 or keep[-1] >= count:
        raise PlanError(f"cannot keep layers {list(keep)}; expected ascending layers between 0 and {count - 1}, at least one")


def cut_config(config: Any, keep: Sequence[int], *, changes: Mapping[str, Any] | None = None) -> Any:
    """Return a copy of ``config`` for the model that keeps blocks ``keep`` (0-based), per-layer lists cut with them.

    Args:
        config: A model's config.
        keep: Kept blocks, ascending.
        changes: Further entries that the cut changes.

    Raises:
        PlanError: The model does not have these layers.
        UnsupportedModel: A per-layer entry of the config is not known.
    """
    count = num_layers(config)
    check_keep(keep, count)
    cut = cut_config_entries(config.to_dict(), keep, count)
    # Lists and count are validated against each other as they are set, so the config is made anew from a dictionary.
    entries = {**copy.deepcopy(config.to_dict()), **cut, **(changes or {})}
    depth_key = type(config).attribute_map.get("num_hidden_layers", "num_hidden_layers")
    entries[depth_key] = len(keep)
    entries.pop("quantization_config", None)
    new = type(config).from_dict(entries)
    # No dictionary holds it, and a mask made for one attention kernel is wrong for another.
    new._attn_implementation = config._attn_implementation
    return new


def block_of(name: str, blocks: str) -> int | None:
    """Return the block number in a parameter's name, or None for one outside the blocks."""
    match = re.search(rf"(?:^|\.){re.escape(blocks)}\.(\d+)\.", name)
    return int(match.group(1)) if match else None


def renamed(name: str, blocks: str, keep: Sequence[int]) -> str | None:
    """Return a parameter's name after the cut, or None when its block goes."""
    layer = block_of(name, blocks)
    if layer is None:
        return name
    if layer not in keep:
        return None
    return re.sub(rf"((?:^|\.){re.escape(blocks)}\.)\d+\.", rf"\g<1>{list(keep).index(layer)}.", name, count=1)


def assemble(
    model_class: type[PreTrainedModel],
    config: Any,
    state: Mapping[str, Tensor],
    *,
    buffers_from: nn.Module,
    layout: Layout = (),
) -> PreTrainedModel:
    """Build a model without allocating or initialising weights, and give it exactly the tensors of ``state``.

    Args:
        model_class: A transformers base model class.
        config: Its config.
        state: Every parameter and persistent buffer; they are used as they are, not copied.
        buffers_from: A model of the same family that lends what is in no checkpoint (rotary frequencies, scales).
        layout: The structure of its blocks where they are not all alike.

    Raises:
        RuntimeError: From ``load_state_dict``, when ``state`` lacks a tensor or has one too many.
    """
    with torch.device("meta"):
        model = model_class(config)
    if layout:
        apply_layout(model, layout)
    model.load_state_dict(dict(state), strict=True, assign=True)
    lend_buffers(model, buffers_from)
    model.eval()
    return model


def lend_buffers(model: nn.Module, source: nn.Module) -> None:
    """Fill the buffers that building on the meta device left without values from those of the same name in ``source``.

    What ``source`` has none of stays without values: a cut to one kind of attention has no frequencies of the other, and
    the blocks that it keeps ask for none. A block that did would fail, as nothing computes on the meta device.
    """
    lent = dict(source.named_buffers())
    for name, buffer in list(model.named_buffers()):
        twin = name if name in lent else re.sub(r"\.\d+\.", ".0.", name)  # of the first block when the numbers differ
        if buffer.is_meta and twin in lent:
            parent, _, leaf = name.rpartition(".")
            model.get_submodule(parent).register_buffer(leaf, lent[twin].clone(), persistent=False)
    # Some rotary modules keep the unscaled frequencies as a plain attribute next to the buffer.
    for path, module in model.named_modules():
        for attribute, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.is_meta and hasattr(source.get_submodule(path), attribute):
                setattr(module, attribute, getattr(source.get_submodule(path), attribute).clone())


def reference_cut(model: PreTrainedModel, original_config: Any, keep: Sequence[int], layout: Layout = ()) -> PreTrainedModel:
    """Return the original architecture with its other blocks deleted, sharing the weights of a cut ``model``.

    The blocks are those that the original config builds at their original places, so a cut model whose config went
    wrong (attention kinds, rotary settings) computes something else than this one.

    Args:
        model: The cut model, whose weights are used.
        original_config: The config before the cut.
        keep: Its kept blocks, 0-based.
        layout: What each of them still has, where that is not all.
    """
    with torch.device("meta"):
        whole = type(model)(original_config)
    family: Family = find_family(whole, original_config)
    parent, _, leaf = family.blocks.rpartition(".")
    kept = nn.ModuleList(block_list(whole, family)[layer] for layer in keep)
    setattr(whole.get_submodule(parent), leaf, kept)
    # Forward passes of some families iterate over layers[:num_hidden_layers] or zip them with per-layer kinds.
    config = cut_config(original_config, keep)
    config.use_cache = False
    whole.config = config
    if parent:
        setattr(whole.get_submodule(parent), "config", config)  # noqa: B010
    if layout:
        apply_layout(whole, layout)
    whole.load_state_dict(model.state_dict(), strict=True, assign=True)
    lend_buffers(whole, model)
    whole.eval()
    return whole
