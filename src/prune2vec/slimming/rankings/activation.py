"""Rank neurons by how strongly they answer to texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from prune2vec.slimming.calibration import batches, for_each_activation
from prune2vec.slimming.registry import BATCHES, TEXTS, rankings
from prune2vec.slimming.settings import SlimSettings
from prune2vec.slimming.subject import Subject
from prune2vec.texts import Triplet


@rankings.register("activation", reads=(TEXTS, BATCHES))
def activation(subject: Subject, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """Mean absolute activation over all tokens, instructions included (Minitron, arXiv 2407.14679)."""
    totals = {layer: torch.zeros(subject.width(layer), dtype=torch.float64) for layer in subject.blocks}
    tokens: Counter[int] = Counter()

    def watch(layer: int, activations: Tensor) -> None:
        totals[layer] += activations.float().abs().sum(dim=0).cpu()
        tokens[layer] += len(activations)

    for_each_activation(subject, batches(subject, triplets, settings), watch)
    subject.note(tokens=max(tokens.values()))
    return {layer: (total / tokens[layer]).float() for layer, total in totals.items()}
