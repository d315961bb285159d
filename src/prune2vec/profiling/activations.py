"""How active each neuron is: a training-free width ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prune2vec.forward.batches import Batch
from prune2vec.models.sublayers import Neurons
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.scorer import Measurement


class MeanActivation:
    """The running mean |activation| of the neurons of each layer, in float64 on the CPU."""

    def __init__(self) -> None:
        self._totals: dict[int, Tensor] = {}
        self._tokens: Counter[int] = Counter()

    def add(self, layer: int, activations: Float[Tensor, "token neuron"]) -> None:
        """Take in what the neurons of a layer give for some tokens."""
        total = activations.float().abs().sum(dim=0).cpu().double()
        self._totals[layer] = self._totals[layer] + total if layer in self._totals else total
        self._tokens[layer] += len(activations)

    @property
    def tokens(self) -> int:
        """Tokens seen."""
        return max(self._tokens.values())

    def means(self) -> dict[int, Float[Tensor, " neuron"]]:
        """Return the mean of each neuron, by layer, first layer first."""
        return {layer: self._totals[layer] / self._tokens[layer] for layer in sorted(self._totals)}


class Activations(Measurement):
    """The mean |activation| of every neuron over all tokens of the rows.

    Args:
        neurons: Where the MLPs keep their neurons.
        rows: Tokenised texts.
    """

    def __init__(self, neurons: Neurons, rows: Sequence[TokenRow]) -> None:
        self.rows = tuple(rows)
        self.key = ("activations", neurons)
        self._neurons = neurons
        self._mean = MeanActivation()

    def begin(self, batch: Batch) -> None:
        """Note which tokens are real."""
        self._real = batch.real.flatten()
        self._padded = bool(batch.tokens < self._real.numel())

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Watch what the last matrix of a block's MLP receives."""

        def look(module: nn.Module, args: tuple[Any, ...]) -> None:
            activations = args[0].reshape(-1, args[0].shape[-1])
            self._mean.add(layer, activations[self._real] if self._padded else activations)

        return [block.get_submodule(self._neurons.out).register_forward_pre_hook(look)]

    def result(self) -> list[Float[Tensor, " neuron"]]:
        """Return one float64 tensor a layer, on the CPU."""
        return list(self._mean.means().values())


def least_active(activations: Sequence[Float[Tensor, " neuron"]], count: int) -> list[Bool[Tensor, " neuron"]]:
    """Return which neurons are not among the ``count`` least active of all layers; equal ones go in layer order."""
    pooled = torch.cat(list(activations))
    stays = torch.ones(len(pooled), dtype=torch.bool)
    stays[torch.argsort(pooled, stable=True)[:count]] = False
    return list(stays.split([len(layer) for layer in activations]))
