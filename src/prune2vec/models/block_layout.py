"""Blocks that are not all alike: which sub-layers each has and how wide its MLP is, on modules, on disk and while loading.

``per_layer_config`` is transformers' own entry for this (5.20 on). Stock classes follow it for what they know themselves
(Gemma 4's ``head_dim``), none for what is written here: ``skip``, and the width of an MLP. Given the stock config alone they
would build whole blocks and fill what no file holds with random numbers, so the written config is one that they refuse, and the
structure is built here before any weight is loaded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from prune2vec.errors import CheckpointError, ModelError
from prune2vec.models.families import (
    Neurons,
    SubLayers,
    block_list,
    find_family,
    find_sub_layers,
    mlp_width,
    num_layers,
    without_head,
)
from prune2vec.models.kept import ATTENTION, MLP
from prune2vec.models.tensor_check import check_loaded

_ENTRY = "per_layer_config"
# Before the model type where the width has no config entry that could make stock classes refuse the folder.
_UNKNOWN_TYPE = "uneven-"


@dataclass(frozen=True, kw_only=True)
class BlockLayout:
    """Whether a block has attention and an MLP, and the neurons of that MLP (None where it has none, or they are not known)."""

    attention: bool = True
    mlp: bool = True
    width: int | None = None


Layout = tuple[BlockLayout, ...]
"""One entry a block; where a function takes or returns one, empty stands for stock blocks."""


class Dropped(nn.Module):
    """Stands where a sub-layer was dropped, which ``adds_input`` to what it returns itself or leaves that to the block."""

    def __init__(self, *, adds_input: bool) -> None:
        super().__init__()
        self.adds_input = adds_input

    def left(self, states: Tensor) -> Tensor:
        """Return the input where the sub-layer adds it, else a zero (a scalar, which adds to states of any shape)."""
        return states if self.adds_input else states.new_zeros(())


class NoMlp(Dropped):
    """Stands where an MLP was dropped; of several modules that add its input the last one returns that, whatever the others did."""

    def forward(self, hidden_states: Tensor, input_tensor: Tensor | None = None) -> Tensor:
        """Return what is left of the MLP's part."""
        return self.left(hidden_states if input_tensor is None else input_tensor)


class NoAttention(Dropped):
    """Stands where attention was dropped."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """Return what is left of the attention's part, and no attention weights."""
        return self.left(args[0] if args else kwargs["hidden_states"]), None


def is_even(layout: Layout) -> bool:
    """Return whether all blocks are alike, so that a stock config can describe them."""
    return len(set(layout)) <= 1 and all(block.attention and block.mlp for block in layout)


def sub_layers_of(model: PreTrainedModel) -> SubLayers:
    """Return the parts of the blocks, read off one whose MLP is there; ``UnsupportedModel`` if they are not known."""
    family = find_family(model, model.config)
    blocks = block_list(model, family)
    whole = [block for block in blocks if not isinstance(block.get_submodule(family.mlp[0]), NoMlp)] or [blocks[0]]
    found = [find_sub_layers(block, family, model.config) for block in whole]
    # Dense blocks among mixtures of experts have no neurons in common with them.
    return found[0] if all(parts.neurons for parts in found) else replace(found[0], neurons=None)


def layout_of(model: PreTrainedModel) -> Layout:
    """Return the layout of a model as it stands; ``UnsupportedModel`` if the parts of its blocks are not known."""
    parts, layout = sub_layers_of(model), []
    for block in block_list(model, find_family(model, model.config)):
        attention = not isinstance(block.get_submodule(parts.attention), NoAttention)
        mlp = not isinstance(block.get_submodule(parts.mlp[0]), NoMlp)
        width = mlp_width(block, parts.neurons) if mlp and parts.neurons is not None else None
        layout.append(BlockLayout(attention=attention, mlp=mlp, width=width))
    return tuple(layout)


def apply_layout(model: PreTrainedModel, layout: Layout) -> None:
    """Give freshly built stock blocks the structure of ``layout``, in place; values of narrowed matrices are not kept."""
    parts = sub_layers_of(model)
    for block, wanted in zip(block_list(model, find_family(model, model.config)), layout, strict=True):
        if not wanted.attention:
            _replace(block, parts.attention, NoAttention(adds_input=parts.adds_input))
            _pass_on(block, parts.attention_norms)
        if not wanted.mlp and parts.adds_input:
            for path in parts.mlp:
                _replace(block, path, NoMlp(adds_input=True))
        elif not wanted.mlp:
            _replace(block, parts.mlp[0], NoMlp(adds_input=False))
            _pass_on(block, (*parts.mlp[1:], *parts.mlp_norms))
        elif wanted.width is not None and parts.neurons is not None:
            _narrow(block, parts.neurons, wanted.width)


def _replace(block: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(block.get_submodule(parent), name, module)


def _pass_on(block: nn.Module, paths: Sequence[str]) -> None:
    """Let modules around a dropped sub-layer pass on what they get."""
    for path in paths:
        _replace(block, path, nn.Identity())


def _narrow(block: nn.Module, neurons: Neurons, width: int) -> None:
    """Put uninitialised linear layers of another width in place of an MLP's."""
    if mlp_width(block, neurons) == width:
        return
    for path in (*neurons.into, neurons.out):
        module: Any = block.get_submodule(path)
        weight = module.weight
        inputs, outputs = weight.shape if isinstance(module, Conv1D) else weight.shape[::-1]
        if path == neurons.out:
            inputs = width
        else:
            outputs = 2 * width if neurons.halves else width
        with torch.device("meta"):
            if isinstance(module, Conv1D):
                fresh: nn.Module = Conv1D(outputs, inputs)
            else:
                fresh = nn.Linear(inputs, outputs, bias=module.bias is not None)
        _replace(block, path, fresh.to(dtype=weight.dtype).to_empty(device=weight.device))


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
    """Read back what ``per_layer_config`` made for ``count`` blocks; what it cannot have made is a ``CheckpointError``."""
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


def uneven_layout(model: PreTrainedModel) -> Layout:
    """Return the layout of a model that the stock class does not build from its config; empty where it does.

    Raises:
        CheckpointError: It has other tensors than its class, though its blocks are whole.
        UnsupportedModel: The parts of its blocks are not known.
    """
    config = copy.deepcopy(model.config)
    config.dtype = model.dtype  # Saving leaves it as a word, which classes with an activation of their own (xIELU) refuse.
    with torch.device("meta"):
        stock = without_head(type(model)(config))
    expected = {name: tensor.shape for name, tensor in stock.state_dict().items()}
    found = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if expected == found:
        return ()
    layout = layout_of(model)
    if is_even(layout):
        name = min(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        raise CheckpointError(
            f"tensor {name} is not as the config of this {type(model).__name__} says; merge adapters and undo other changes first"
        )
    return layout


def uneven_config(entries: Mapping[str, Any], model: PreTrainedModel, layout: Layout) -> dict[str, Any]:
    """Return the ``config.json`` of an uneven model: the stock ``entries``, made so that stock classes refuse them.

    The layout is in ``per_layer_config``. The width outside of it is one that no block has: transformers 5.20 and newer
    refuse to read it, and older releases find tensors of other shapes.
    """
    neurons = sub_layers_of(model).neurons
    if neurons is None:
        return {
            **entries,
            _ENTRY: per_layer_config(layout, ""),
            "model_type": f"{_UNKNOWN_TYPE}{str(entries['model_type']).removeprefix(_UNKNOWN_TYPE)}",
        }
    taken = {block.width for block in layout}
    width = next(number for number in count(1) if number not in taken)
    return {**entries, _ENTRY: per_layer_config(layout, neurons.config_key), neurons.config_key: width}


def read_uneven(entries: Mapping[str, Any], **changes: Any) -> tuple[Any, Layout]:
    """Return the stock config behind what ``uneven_config`` wrote (some entries changed), with the largest width, and the layout.

    Raises:
        CheckpointError: It describes no uneven model of a known type.
    """
    stock = copy.deepcopy(dict(entries))
    blocks = stock.pop(_ENTRY, None)
    kind = str(stock.get("model_type")).removeprefix(_UNKNOWN_TYPE)
    if not isinstance(blocks, Mapping) or not all(isinstance(block, Mapping) for block in blocks.values()):
        raise CheckpointError(f"config.json has no {_ENTRY} with one entry a layer; this is no uneven model of prune2vec")
    if kind not in CONFIG_MAPPING:
        raise CheckpointError(f"model_type {kind!r} is unknown to the installed transformers, or comes with code of its own")
    keys = {key for block in blocks.values() for key in block} - {"skip"}
    key = keys.pop() if len(keys) == 1 else ""
    if key:
        # What is no number is refused by read_layout, in words.
        stock[key] = max((block[key] for block in blocks.values() if isinstance(block.get(key), int)), default=1)
    config = CONFIG_MAPPING[kind].from_dict({**stock, "model_type": kind}, **changes)
    return config, read_layout(blocks, key, num_layers(config))


def load_with_layout(
    model_class: type[PreTrainedModel], layout: Layout, location: str | None, **kwargs: Any
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Run ``from_pretrained`` of a base model class that builds the structure of ``layout`` before any weight is loaded.

    Dtype, device, shards and buffers are thus exactly what transformers makes of a stock model. ``location`` is None with
    ``state_dict``.

    Returns:
        The model, and transformers' account of missing, unexpected and mismatched tensors.
    """

    def build(self: PreTrainedModel, config: Any, *args: Any, **more: Any) -> None:
        model_class.__init__(self, config, *args, **more)
        without_head(self)
        if layout:
            apply_layout(self, layout)

    shaped: Any = type(model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__})
    loaded: tuple[PreTrainedModel, dict[str, Any]] = shaped.from_pretrained(location, output_loading_info=True, **kwargs)
    loaded[0].__class__ = model_class
    return loaded


def load_uneven(location: str, config: Any, layout: Layout, **kwargs: Any) -> PreTrainedModel:
    """Load an uneven model from a folder or hub id by its stock ``config``; a tensor that does not fit is a CheckpointError."""
    with torch.device("meta"):
        model_class = type(AutoModel.from_config(config))
    # Mismatches are collected instead of raised, so that they are told in one line.
    model, info = load_with_layout(
        model_class, layout, location, **{**kwargs, "config": config, "ignore_mismatched_sizes": True}
    )
    try:
        check_loaded(location, model, info)
    except ModelError as error:
        raise CheckpointError(str(error)) from error
    model.eval()
    return model
