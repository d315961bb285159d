"""Rank neurons by how strongly they answer to texts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.profiling.activations import MeanActivation
from prune2vec.training.calibration import batches, for_each_activation
from prune2vec.training.neuron_importance import BATCHES, TEXTS, importances
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings


@importances.register("activation", reads=(TEXTS, BATCHES), within_layers=True)
def activation(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Mean absolute activation over all tokens, instructions included (Minitron, arXiv 2407.14679)."""
    seen = MeanActivation()
    for_each_activation(subject, batches(subject, triplets, settings), seen.add)
    subject.note(tokens=seen.tokens)
    return {layer: mean.float() for layer, mean in seen.means().items()}
