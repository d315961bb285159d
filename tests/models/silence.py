"""The whole model with silent parts: the independent reference of every cut inside blocks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import block_list, find_family
from prune2vec.models.kept import Kept
from prune2vec.models.shape import measure_shape
from prune2vec.planning.plan import PruningPlan


def plan_of(model: PreTrainedModel, kept: Kept, neurons: Mapping[int, tuple[int, ...]]) -> PruningPlan:
    return PruningPlan(
        model={"name": "tiny"},
        shape=measure_shape(model, find_family(model, model.config), bytes_per_param=4),
        keep_layers=kept.layers,
        drop_attention=kept.drop_attention,
        drop_mlp=kept.drop_mlp,
        neurons=neurons,
        method="test",
    )


def _silent(module: object, args: object, output: Any) -> Any:
    return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)


def _passed_by(module: object, args: tuple[Any, ...], output: Any) -> Any:
    """Return what a module with its input added to it was given: its first argument, or the one that is added."""
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[-1]


@contextmanager
def silenced(model: PreTrainedModel, plan: PruningPlan) -> Iterator[None]:
    """Make the dropped parts of the whole model add nothing, by hooks on what each sub-layer does last."""
    parts = sub_layers_of(model)
    blocks = block_list(model, find_family(model, model.config))
    handles = []
    normed_sums = {"attention": "sa_layer_norm", "ffn": "output_layer_norm"} if model.config.model_type == "distilbert" else {}

    def silence(block: torch.nn.Module, path: str, norms: tuple[str, ...]) -> None:
        if parts.adds_input:
            handles.append(block.get_submodule(path).register_forward_hook(_passed_by))
            return
        handles.append(_last(block, path, norms).register_forward_hook(_silent))
        if path in normed_sums:
            handles.append(block.get_submodule(normed_sums[path]).register_forward_hook(_passed_by))

    for layer, block in enumerate(blocks):
        gone = layer not in plan.keep_layers
        if gone or layer in plan.drop_attention:
            silence(block, parts.attention, parts.attention_norms)
        if gone or layer in plan.drop_mlp:
            silence(block, parts.mlp[-1], parts.mlp_norms)
        if layer in plan.neurons:
            out = block.get_submodule(parts.neurons.out)
            alive = torch.zeros(plan.shape.mlp_width[layer])
            alive[list(plan.neurons[layer])] = 1
            handles.append(out.register_forward_pre_hook(lambda module, args, alive=alive: (args[0] * alive,)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last(block: torch.nn.Module, path: str, norms: tuple[str, ...]) -> torch.nn.Module:
    """The module whose output is added to the stream: a norm after the sub-layer, or the sub-layer itself."""
    after = [name for name in norms if name in ("post_feedforward_layernorm",)]
    if "attn" in path and "pre_feedforward_layernorm" in dict(block.named_children()):
        after = ["post_attention_layernorm"]
    if len(norms) == 1 and "post_feedforward_layernorm" in dict(block.named_children()):
        after = list(norms)  # olmo2
    return block.get_submodule(after[0] if after else path)
