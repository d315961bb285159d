"""What a cut of width costs before anything is trained: the contrastive loss with all neurons, and without those that go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from prune2vec.data.triplet import Triplet
from prune2vec.progress import say
from prune2vec.training.calibration import batches, evaluating, train_settings
from prune2vec.training.gates import Gates
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings

# Both losses are of the same batches, so few tell a cut that breaks the model from one that does not.
_BATCHES = 5


def say_loss(
    subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings, neurons: Mapping[int, Sequence[int]]
) -> tuple[float, float]:
    """Say, and return, the mean loss on some batches with all neurons and with those that stay.

    Args:
        subject: The cut model.
        triplets: The rows that batches are drawn from.
        settings: How they are drawn, and the scale of the loss.
        neurons: By layer, the neurons that stay; layers that keep all are left out.
    """
    few = settings.model_copy(update={"batches": min(settings.batches, _BATCHES)})
    gates = Gates(subject)
    gates.install(subject.encoder)
    loss = build_loss(subject.encoder, train_settings(settings))
    before, after = [], []
    try:
        with torch.no_grad(), pooled_in_fp32(subject.encoder), evaluating(subject):
            for columns in batches(subject, triplets, few):
                _open(gates, {})
                before.append(float(loss([dict(one) for one in columns], torch.empty(0))))
                _open(gates, neurons)
                after.append(float(loss([dict(one) for one in columns], torch.empty(0))))
    finally:
        gates.remove()
    found = sum(before) / len(before), sum(after) / len(after)
    say(f"loss on {len(before)} batches, untrained: {found[0]:.4f} with all neurons, {found[1]:.4f} without those that go")
    return found


def _open(gates: Gates, neurons: Mapping[int, Sequence[int]]) -> None:
    """Open the gates of the neurons that stay and close the others."""
    for layer, gate in gates.values.items():
        gate.fill_(0.0 if layer in neurons else 1.0)
        if layer in neurons:
            gate[torch.tensor(neurons[layer], device=gate.device)] = 1.0
