"""Rank neurons by what their outgoing weights carry."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.training.calibration import batches, for_each_activation
from prune2vec.training.neuron_importance import BATCHES, TEXTS, importances
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings


@importances.register("wanda", reads=(TEXTS, BATCHES), within_layers=True)
def wanda(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Sum of Wanda's scores of the weights that lead from a neuron, ``|W_ij| * ||X_j||_2`` (arXiv 2306.11695).

    X_j are the neuron's activations on all tokens, instructions included.
    """
    squares = {layer: torch.zeros(subject.width(layer), dtype=torch.float64) for layer in subject.blocks}

    def watch(layer: int, activations: Tensor) -> None:
        squares[layer] += activations.float().square().sum(dim=0).cpu()

    for_each_activation(subject, batches(subject, triplets, settings), watch)
    return {layer: (found.sqrt() * subject.columns(layer).abs().sum(dim=0)).float() for layer, found in squares.items()}
