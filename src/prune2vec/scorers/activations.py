"""How active each neuron is, and a model in which the least active ones are silent: a training-free width ranking."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from prune2vec.backbone.depths import pad_rows
from prune2vec.backbone.load import Backbone
from prune2vec.backbone.tokens import TokenRow, length_batches
from prune2vec.families import block_list
from prune2vec.scorers.registry import Advance
from prune2vec.sublayers import Neurons

PreHook = Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]


def mean_activations(
    backbone: Backbone, neurons: Neurons, rows: Sequence[TokenRow], *, token_budget: int, advance: Advance
) -> list[Float[Tensor, " neuron"]]:
    """Return the mean |activation| of every neuron over all tokens of ``rows``, one float64 tensor a layer, on the CPU.

    Args:
        backbone: The model.
        neurons: Where its MLPs keep their neurons.
        rows: Tokenised texts.
        token_budget: Padded tokens in one forward pass.
        advance: Called with the number of tokens done.
    """
    count = len(block_list(backbone.model, backbone.family))
    total: list[Tensor] = [torch.zeros(()) for _ in range(count)]
    tokens = 0
    for batch in length_batches([len(row.ids) for row in rows], token_budget=token_budget):
        inputs, _, attended = pad_rows([rows[row] for row in batch], backbone, "right")
        real = attended.flatten().bool()

        def add(layer: int, real: Tensor = real) -> PreHook:
            def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
                activations = args[0].reshape(-1, args[0].shape[-1])[real]
                total[layer] = total[layer] + activations.float().abs().sum(dim=0).cpu().double()

            return hook

        with _hooked(backbone, neurons, add), torch.inference_mode():
            backbone.model(**inputs, use_cache=False)
        done = int(real.sum())
        tokens += done
        advance(done)
    return [layer / tokens for layer in total]


def least_active(activations: Sequence[Float[Tensor, " neuron"]], count: int) -> list[Bool[Tensor, " neuron"]]:
    """Return which neurons are not among the ``count`` least active of all layers; equal ones go in layer order."""
    pooled = torch.cat(list(activations))
    stays = torch.ones(len(pooled), dtype=torch.bool)
    stays[torch.argsort(pooled, stable=True)[:count]] = False
    return list(stays.split([len(layer) for layer in activations]))


@contextmanager
def silenced(backbone: Backbone, neurons: Neurons, stays: Sequence[Bool[Tensor, " neuron"]]) -> Iterator[None]:
    """Make the neurons that do not stay add nothing while the context is open."""

    def silence(layer: int) -> PreHook:
        on = stays[layer].to(device=backbone.model.device, dtype=backbone.model.dtype)

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (args[0] * on, *args[1:])

        return hook

    with _hooked(backbone, neurons, silence):
        yield


@contextmanager
def _hooked(backbone: Backbone, neurons: Neurons, hook_of: Callable[[int], PreHook]) -> Iterator[None]:
    """Hook what receives the neurons' activations, in every block."""
    handles = [
        block.get_submodule(neurons.out).register_forward_pre_hook(hook_of(layer))
        for layer, block in enumerate(block_list(backbone.model, backbone.family))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
