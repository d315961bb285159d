"""Poolings as weights: each is one function from masks to the weight of every position.

A pooled vector is ``sum_i w_i h_i``; as all poolings here are linear in the token states, one matrix product serves
them all. To add one: a function here, registered under sentence-transformers' name for it where there is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prune2vec.registry import Registry

PoolingFn = Callable[[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]], Float[Tensor, "batch seq"]]

poolings: Registry[PoolingFn] = Registry("pooling")


def pool(states: Float[Tensor, "batch seq dim"], weights: Float[Tensor, "batch seq"]) -> Float[Tensor, "batch dim"]:
    """Return ``sum_i weights[:, i] * states[:, i]`` in fp32, whatever the dtype of the states."""
    return torch.bmm(weights.float().unsqueeze(1), states.float()).squeeze(1)


@poolings.register("mean")
def mean(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh every pooled token alike.

    Args:
        pooled: 1 where a token is pooled (not padding, BOS, instruction or chat prefix).
        attended: 1 where there is a token at all.
    """
    mask = pooled.float()
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


@poolings.register("weightedmean")
def weightedmean(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh each pooled token by its rank among all tokens of its text (SGPT; L3Prune's default), as runtimes do.

    Without a prompt that is ``w_i = i / (m (m + 1) / 2)`` for m tokens.
    """
    return _by_rank(attended.cumsum(dim=1) * pooled)


@poolings.register("weightedmean-paper")
def weightedmean_paper(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh each pooled token by its rank among the pooled ones, as L3Prune's code does; for profiles only.

    Equal to ``weightedmean`` when everything is pooled.
    """
    return _by_rank(pooled.cumsum(dim=1) * pooled)


def _by_rank(rank: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    return rank.float() / rank.sum(dim=1, keepdim=True).clamp(min=1).float()


@poolings.register("lasttoken")
def lasttoken(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Take the last pooled token alone."""
    positions = torch.arange(pooled.shape[1], device=pooled.device)
    last = (positions * pooled).argmax(dim=1, keepdim=True)
    return torch.zeros(pooled.shape, device=pooled.device).scatter_(1, last, 1.0) * pooled
