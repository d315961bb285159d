"""Contrastive loss and its companions over one group of pooled (query, positive, negative) vectors, in fp32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, pdist


@dataclass(frozen=True)
class GroupScores:
    """What one group of tuples says about one representation (all plain floats)."""

    loss: float
    accuracy: float
    alignment: float
    uniformity: float


def group_scores(
    queries: Float[Tensor, "rows dim"],
    positives: Float[Tensor, "rows dim"],
    negatives: Float[Tensor, "hard dim"],
    *,
    scale: float,
) -> GroupScores:
    """Return loss, accuracy@1, alignment and uniformity (Wang and Isola, 2020, t = 2) of one group.

    The loss is the mean cross-entropy of each query against all positives and all hard negatives of the group:
    ``s_ij = scale * cos(q_i, c_j)`` with ``c = [positives; negatives]`` and target ``i`` (L3Prune, section 3). A query counts
    as right when its own positive scores highest; uniformity runs over all pairs of queries and positives except a query with
    its own positive, and is 0 for a single query.
    """
    q, p = normalize(queries.float(), dim=1), normalize(positives.float(), dim=1)
    similarities = q @ normalize(torch.cat([positives, negatives]).float(), dim=1).T
    rows = torch.arange(len(q), device=q.device)
    uniformity = 0.0
    if len(q) > 1:
        across = torch.cdist(q, p)[~torch.eye(len(q), dtype=torch.bool, device=q.device)]
        distances = torch.cat([pdist(q), pdist(p), across])
        uniformity = distances.square().mul(-2).exp().mean().log().item()
    return GroupScores(
        loss=cross_entropy(similarities * scale, rows).item(),
        accuracy=(similarities.argmax(dim=1) == rows).float().mean().item(),
        alignment=(q - p).square().sum(dim=1).mean().item(),
        uniformity=uniformity,
    )
