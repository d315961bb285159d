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


def hard_negative_nll(
    queries: Float[Tensor, "rows dim"],
    positives: Float[Tensor, "rows dim"],
    negatives: Float[Tensor, "hard dim"],
    *,
    scale: float,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of each query against all positives and all hard negatives of the group.

    ``s_ij = scale * cos(q_i, c_j)`` with ``c = [positives; negatives]`` and target ``i`` (L3Prune, section 3).
    """
    logits = _similarities(queries, positives, negatives) * scale
    return cross_entropy(logits, torch.arange(len(queries), device=queries.device))


def group_scores(
    queries: Float[Tensor, "rows dim"],
    positives: Float[Tensor, "rows dim"],
    negatives: Float[Tensor, "hard dim"],
    *,
    scale: float,
) -> GroupScores:
    """Return loss, accuracy@1, alignment and uniformity (Wang and Isola, 2020, t = 2) of one group.

    A query counts as right when its own positive scores highest; uniformity runs over all pairs of queries and
    positives except a query with its own positive.
    """
    similarities = _similarities(queries, positives, negatives)
    rows = torch.arange(len(queries), device=queries.device)
    q, p = normalize(queries.float(), dim=1), normalize(positives.float(), dim=1)
    return GroupScores(
        loss=cross_entropy(similarities * scale, rows).item(),
        accuracy=(similarities.argmax(dim=1) == rows).float().mean().item(),
        alignment=(q - p).square().sum(dim=1).mean().item(),
        uniformity=_uniformity(q, p),
    )


def _similarities(
    queries: Float[Tensor, "rows dim"], positives: Float[Tensor, "rows dim"], negatives: Float[Tensor, "hard dim"]
) -> Float[Tensor, "rows candidates"]:
    candidates = torch.cat([positives, negatives]).float()
    return normalize(queries.float(), dim=1) @ normalize(candidates, dim=1).T


def _uniformity(q: Float[Tensor, "rows dim"], p: Float[Tensor, "rows dim"]) -> float:
    if len(q) < 2:
        return 0.0
    own = torch.eye(len(q), dtype=torch.bool, device=q.device)
    across = torch.cdist(q, p)[~own]
    distances = torch.cat([pdist(q), pdist(p), across])
    return distances.square().mul(-2).exp().mean().log().item()
