"""Blocks that are not all alike: which sub-layers each has and how wide its MLP is, on modules and in ``config.json``.

``per_layer_config`` is transformers' own entry for this (5.20 on). Stock classes follow it for what they know themselves
(Gemma 4's ``head_dim``), none for what is written here: ``skip``, and the width of an MLP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import CheckpointError
from prune2vec.models.families import block_list, find_family
from prune2vec.models.sublayers import Neurons, SubLayers, find_sub_layers, mlp_width

ATTENTION, MLP = "attention", "mlp"


@dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """One block.

    Attributes:
        attention: Whether it has attention.
        mlp: Whether it has an MLP.
        width: Neurons of that MLP; None where it has none, or they are not known.
    """

    attention: bool = True
    mlp: bool = True
    width: int | None = None


Layout = tuple[BlockLayout, ...]


class NoAttention(nn.Module):
    """Stands where attention was dropped: adds nothing to the residual stream."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Return a zero (a scalar, which adds to states of any shape) and no attention weights."""
        states: Tensor = args[0] if args else kwargs["hidden_states"]
        return states.new_zeros(()), None


class NoMlp(nn.Module):
    """Stands where an MLP was dropped: adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return a zero (a scalar, which adds to states of any shape)."""
        return hidden_states.new_zeros(())


def is_even(layout: Layout) -> bool:
    """Return whether all blocks are alike, so that a stock config can describe them."""
    return len(set(layout)) <= 1 and all(block.attention and block.mlp for block in layout)


def sub_layers_of(model: PreTrainedModel) -> SubLayers:
    """Return the parts of the model's blocks, read off those whose MLP is still there.

    Raises:
        UnsupportedModel: They are not known.
    """
    family = find_family(model, model.config)
    blocks = block_list(model, family)
    whole = [block for block in blocks if not _is_dropped(block, family.mlp[0])] or [blocks[0]]
    found = [find_sub_layers(block, family, model.config) for block in whole]
    # Dense blocks among mixtures of experts have no neurons in common with them.
    return found[0] if all(parts.neurons for parts in found) else replace(found[0], neurons=None)


def layout_of(model: PreTrainedModel, parts: SubLayers | None = None) -> Layout:
    """Return the layout of a model as it stands.

    Raises:
        UnsupportedModel: The parts of its blocks are not known, and none were given.
    """
    parts = parts or sub_layers_of(model)
    return tuple(_block_layout(block, parts) for block in block_list(model, find_family(model, model.config)))


def _block_layout(block: nn.Module, parts: SubLayers) -> BlockLayout:
    mlp = not _is_dropped(block, parts.mlp[0])
    width = mlp_width(block, parts.neurons) if mlp and parts.neurons is not None else None
    return BlockLayout(attention=not _is_dropped(block, parts.attention), mlp=mlp, width=width)


def _is_dropped(block: nn.Module, path: str) -> bool:
    return isinstance(block.get_submodule(path), NoAttention | NoMlp)


def apply_layout(model: PreTrainedModel, layout: Layout) -> None:
    """Give freshly built blocks the structure of ``layout``, in place; the values of narrowed matrices are not kept.

    Args:
        model: A model of stock blocks, on the meta device as a rule.
        layout: One entry a block.
    """
    parts = sub_layers_of(model)
    for block, wanted in zip(block_list(model, find_family(model, model.config)), layout, strict=True):
        if not wanted.attention:
            _replace(block, parts.attention, NoAttention())
            _without_norms(block, parts.attention_norms)
        if not wanted.mlp:
            _replace(block, parts.mlp[0], NoMlp())
            _without_norms(block, (*parts.mlp[1:], *parts.mlp_norms))
        elif wanted.width is not None and parts.neurons is not None:
            _narrow(block, parts.neurons, wanted.width)


def _replace(block: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, module)


def _without_norms(block: nn.Module, paths: Sequence[str]) -> None:
    """Let modules around a dropped sub-layer pass on what they get."""
    for path in paths:
        _replace(block, path, nn.Identity())


def _narrow(block: nn.Module, neurons: Neurons, width: int) -> None:
    if mlp_width(block, neurons) == width:
        return
    for path in neurons.into:
        module = block.get_submodule(path)
        _replace(block, path, _resized(module, outputs=2 * width if neurons.halves else width))
    _replace(block, neurons.out, _resized(block.get_submodule(neurons.out), inputs=width))


def _resized(module: nn.Module, *, inputs: int | None = None, outputs: int | None = None) -> nn.Module:
    """Return an uninitialised linear layer like ``module`` with other sizes."""
    weight = module.get_parameter("weight")
    with torch.device("meta"):
        if isinstance(module, Conv1D):
            fresh: nn.Module = Conv1D(outputs or weight.shape[1], inputs or weight.shape[0])
        else:
            bias = getattr(module, "bias", None) is not None
            fresh = nn.Linear(inputs or weight.shape[1], outputs or weight.shape[0], bias=bias)
    return fresh.to(dtype=weight.dtype).to_empty(device=weight.device)


def per_layer_config(layout: Layout, config_key: str) -> dict[str, dict[str, Any]]:
    """Return the ``per_layer_config`` entry of an uneven model: what each block skips, and the width of every other MLP."""
    entries: dict[str, dict[str, Any]] = {}
    for number, block in enumerate(layout):
        skip = [name for name, there in ((ATTENTION, block.attention), (MLP, block.mlp)) if not there]
        entry: dict[str, Any] = {"skip": skip} if skip else {}
        if block.width is not None:
            entry[config_key] = block.width
        if entry:
            entries[str(number)] = entry
    return entries


def read_layout(entries: Mapping[str, Mapping[str, Any]], config_key: str, count: int) -> Layout:
    """Read back what ``per_layer_config`` made, for a model of ``count`` blocks.

    Raises:
        CheckpointError: It names a block that is not there, a sub-layer or an entry that is not known.
    """
    by_block: dict[int, BlockLayout] = {}
    for number, entry in entries.items():
        skip = set(entry.get("skip") or ())
        unknown = sorted(skip - {ATTENTION, MLP}) + sorted(set(entry) - {"skip", config_key})
        if unknown or not number.isdecimal() or int(number) >= count:
            what = unknown or "a layer beyond the model"
            raise CheckpointError(
                f"per_layer_config of layer {number}: cannot read {what}; expected layers 0 to {count - 1} with skip "
                f"({ATTENTION}, {MLP}) and {config_key}"
            )
        width = entry.get(config_key)
        if width is not None and (not isinstance(width, int) or width < 1):
            raise CheckpointError(
                f"per_layer_config of layer {number}: {config_key} is {width!r}, expected a whole number from 1 on"
            )
        by_block[int(number)] = BlockLayout(attention=ATTENTION not in skip, mlp=MLP not in skip, width=width)
    return tuple(by_block.get(number, BlockLayout()) for number in range(count))
