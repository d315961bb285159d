"""Rank neurons by the first-order change of the contrastive loss without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.training.calibration import batches, evaluating, train_settings
from prune2vec.training.gates import Gates
from prune2vec.training.neuron_importance import BATCHES, LOSS, TEXTS, importances
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings


@importances.register("taylor", reads=(TEXTS, BATCHES, LOSS))
def taylor(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """``|sum w * dL/dw|`` over the weights that lead from a neuron, L the mean loss of all batches (LLM-Pruner's vector form).

    For these weights that is the sum over all tokens of activation times its gradient, and also the gradient of a gate at 1;
    that is how it is computed, so no weight needs a gradient. The rows that lead to the neuron are not added: without a
    bias, those of an up projection would give the same number again.
    """
    gates = Gates(subject)
    gates.install(subject.encoder)
    loss = build_loss(subject.encoder, train_settings(settings))
    count = 0
    try:
        with pooled_in_fp32(subject.encoder), evaluating(subject):
            for columns in batches(subject, triplets, settings):
                loss(columns, torch.empty(0)).backward()
                count += 1
    finally:
        gates.remove()
    subject.note(batches=count)
    gradients = {layer: gate.grad for layer, gate in gates.values.items()}
    return {layer: (found / count).abs().float().cpu() for layer, found in gradients.items() if found is not None}
