"""Rank neurons by how strongly they answer to texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.training.calibration import batches, for_each_activation
from prune2vec.training.neuron_importance import BATCHES, TEXTS, importances
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings


@importances.register("activation", reads=(TEXTS, BATCHES), within_layers=True)
def activation(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Mean absolute activation over all tokens, instructions included (Minitron, arXiv 2407.14679)."""
    totals: dict[int, Tensor] = {}
    tokens: Counter[int] = Counter()

    def add(layer: int, activations: Tensor) -> None:
        # In float64 on the CPU: a sum over millions of tokens in fp32 would stop growing.
        total = activations.float().abs().sum(dim=0).cpu().double()
        totals[layer] = totals[layer] + total if layer in totals else total
        tokens[layer] += len(activations)

    for_each_activation(subject, batches(subject, triplets, settings), add)
    subject.note(tokens=max(tokens.values()))
    return {layer: (totals[layer] / tokens[layer]).float() for layer in sorted(totals)}
