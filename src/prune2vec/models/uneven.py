"""Models whose blocks are not all alike on disk: their ``config.json``, and building the structure before loading.

Stock classes cannot describe such a model. Given the config alone they would build whole blocks and fill what no file
holds with random numbers, so the written config is one that they refuse, and the structure is built here first.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from itertools import count
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import Layout, apply_layout, is_even, layout_of, per_layer_config, read_layout, sub_layers_of
from prune2vec.models.families import num_layers
from prune2vec.models.tensor_check import ignored_tensors

ENTRY = "per_layer_config"
# Before the model type where the width has no config entry that could make stock classes refuse the folder.
_UNKNOWN_TYPE = "uneven-"
_NONE = re.compile("(?!)")
_HEADS = ("lm_head.", "embed_out.", "score.", "classifier.", "cls.", "qa_outputs.", "vocab_", "predictions.", "pooler.")


def uneven_layout(model: PreTrainedModel) -> Layout:
    """Return the layout of a model that the stock class does not build from its config; empty where it does.

    Raises:
        CheckpointError: It has other tensors than its class, though its blocks are whole.
        UnsupportedModel: The parts of its blocks are not known.
    """
    config = copy.deepcopy(model.config)
    config.dtype = model.dtype  # Saving leaves it as a word, which classes with an activation of their own (xIELU) refuse.
    with torch.device("meta"):
        stock = type(model)(config)
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
            ENTRY: per_layer_config(layout, ""),
            "model_type": f"{_UNKNOWN_TYPE}{str(entries['model_type']).removeprefix(_UNKNOWN_TYPE)}",
        }
    taken = {block.width for block in layout}
    width = next(number for number in count(1) if number not in taken)
    return {**entries, ENTRY: per_layer_config(layout, neurons.config_key), neurons.config_key: width}


def read_uneven(entries: Mapping[str, Any], **changes: Any) -> tuple[Any, Layout]:
    """Return the stock config behind what ``uneven_config`` wrote, with the largest width, and the layout.

    Args:
        entries: A ``config.json``.
        **changes: Config entries to change.

    Raises:
        CheckpointError: It describes no uneven model of a known type.
    """
    stock = copy.deepcopy(dict(entries))
    blocks = stock.pop(ENTRY, None)
    kind = str(stock.get("model_type")).removeprefix(_UNKNOWN_TYPE)
    if not isinstance(blocks, Mapping) or not all(isinstance(block, Mapping) for block in blocks.values()):
        raise CheckpointError(f"config.json has no {ENTRY} with one entry a layer; this is no uneven model of prune2vec")
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
    """Run ``from_pretrained`` of a model class that builds the structure of ``layout`` before any weight is loaded.

    Number format, device, shards and buffers are thus exactly what transformers makes of a stock model.

    Args:
        model_class: A transformers base model class; the returned model is one of it.
        layout: One entry a block; empty for stock blocks.
        location: As ``from_pretrained`` takes it; None with ``state_dict``.
        **kwargs: As ``from_pretrained`` takes them.

    Returns:
        The model, and transformers' account of missing, unexpected and mismatched tensors.
    """

    def build(self: PreTrainedModel, config: Any, *args: Any, **more: Any) -> None:
        model_class.__init__(self, config, *args, **more)
        if layout:
            apply_layout(self, layout)

    shaped: Any = type(model_class.__name__, (model_class,), {"__init__": build, "__module__": model_class.__module__})
    loaded: tuple[PreTrainedModel, dict[str, Any]] = shaped.from_pretrained(location, output_loading_info=True, **kwargs)
    loaded[0].__class__ = model_class
    return loaded


def load_uneven(location: str, config: Any, layout: Layout, **kwargs: Any) -> PreTrainedModel:
    """Load an uneven model, every tensor of it and no other.

    Args:
        location: Folder or hub id.
        config: The stock config behind it.
        layout: One entry a block.
        **kwargs: As ``from_pretrained`` takes them.

    Raises:
        CheckpointError: A tensor is missing, left over or of another shape; its name is told.
    """
    with torch.device("meta"):
        model_class = type(AutoModel.from_config(config))
    # Mismatches are collected instead of raised, so that they are told in one line.
    model, info = load_with_layout(
        model_class, layout, location, **{**kwargs, "config": config, "ignore_mismatched_sizes": True}
    )
    wrong = misfit(info, model)
    if wrong:
        raise CheckpointError(f"{location} {wrong}; its weights do not fit the structure that its config.json tells")
    model.eval()
    return model


def misfit(info: Mapping[str, Any], model: PreTrainedModel, *, decoder: bool = True) -> str:
    """Return the first tensor that is missing, of another shape or left over, and how many are; empty when all fit.

    Heads above the last block are left out of it: no token state passes them. So are masks and tables that files hold too.

    Args:
        info: transformers' account of a loading.
        model: What was loaded.
        decoder: Whether tensors of a decoder count as left over.
    """
    others = _HEADS if decoder else (*_HEADS, "decoder.")
    for what, key in (
        ("lacks tensor", "missing_keys"),
        ("has another shape of", "mismatched_keys"),
        ("has too much:", "unexpected_keys"),
    ):
        names = sorted(name if isinstance(name, str) else str(name[0]) for name in info[key])
        harmless = ignored_tensors(model) if key == "unexpected_keys" else _NONE
        wrong = [name for name in names if not name.startswith(others) and not harmless.search(name)]
        if wrong:
            return f"{what} {wrong[0]} ({len(wrong)} in all)"
    return ""
