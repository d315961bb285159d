"""Rank neurons by their weights alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.training.neuron_importance import importances
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings


@importances.register("magnitude", reads=(), within_layers=True)
def magnitude(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Product of the norms of a neuron's weights: each row that leads to it, and the column that leads from it.

    Biases do not count. Needs no texts.
    """
    scores = {}
    for layer in subject.blocks:
        score = subject.columns(layer).norm(dim=0)
        for rows in subject.rows(layer):
            score = score * rows.norm(dim=1)
        scores[layer] = score
    return scores
