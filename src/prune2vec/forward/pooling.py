"""Poolings: one record each, with its weights and its names in other software.

A pooled vector is ``sum_i w_i h_i``: all poolings here but the maximum are linear in the token states, and one matrix product
serves them. To add one: a function from masks to weights here, and its record under sentence-transformers' name for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prune2vec.registry import Registry

Weights = Float[Tensor, "batch seq"] | Bool[Tensor, "batch seq"]
PoolingFn = Callable[[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]], Weights]


def pool(states: Float[Tensor, "batch seq dim"], weights: Weights) -> Float[Tensor, "batch dim"]:
    """Return ``sum_i weights[:, i] * states[:, i]`` in fp32, whatever the dtype of the states.

    Weights that are true or false mark the states of which the largest value of each dimension is taken.
    """
    if weights.dtype == torch.bool:
        return states.float().masked_fill(~weights.unsqueeze(2), float("-inf")).amax(dim=1)
    return torch.bmm(weights.float().unsqueeze(1), states.float()).squeeze(1)


def mean(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh every pooled token alike.

    Args:
        pooled: 1 where a token is pooled (not padding, BOS, instruction or chat prefix).
        attended: 1 where there is a token at all.
    """
    mask = pooled.float()
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1)


def mean_sqrt_len_tokens(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh each of m pooled tokens by ``1 / sqrt(m)``, so that a long text's vector is longer."""
    mask = pooled.float()
    return mask / mask.sum(dim=1, keepdim=True).clamp(min=1).sqrt()


def largest(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch seq"]:
    """Mark the pooled tokens, to take the largest value of each dimension."""
    return pooled.bool()


def weightedmean(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh each pooled token by its rank among all tokens of its text (SGPT; L3Prune's default), as runtimes do.

    Without a prompt that is ``w_i = i / (m (m + 1) / 2)`` for m tokens.
    """
    rank = attended.cumsum(dim=1) * pooled
    return rank.float() / rank.sum(dim=1, keepdim=True).clamp(min=1).float()


def weightedmean_paper(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Weigh each pooled token by its rank among the pooled ones, as L3Prune's code does; for profiles only.

    Equal to ``weightedmean`` when everything is pooled.
    """
    return weightedmean(pooled, pooled)


def lasttoken(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Take the last pooled token alone."""
    positions = torch.arange(pooled.shape[1], device=pooled.device)
    last = (positions * pooled).argmax(dim=1, keepdim=True)
    return torch.zeros(pooled.shape, device=pooled.device).scatter_(1, last, 1.0) * pooled


def cls(pooled: Int[Tensor, "batch seq"], attended: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq"]:
    """Take the first pooled token alone: the first of the text, or behind a prompt that is left out (as in sentence-transformers 6).

    Where no token is pooled, it is as there the first of all.
    """
    first = pooled.argmax(dim=1, keepdim=True)
    return torch.zeros(pooled.shape, device=pooled.device).scatter_(1, first, 1.0)


@dataclass(frozen=True, kw_only=True)
class PoolingMethod:
    """A pooling, and who knows it by what name.

    Attributes:
        weights: The weight of every position.
        flag: Its entry in the pooling config of a sentence-transformers folder; None where it is for profiles only.
        vllm: Whether vLLM pools by it.
        served: Who serves an encoder with it, for the model card.
    """

    weights: PoolingFn
    flag: str | None = None
    vllm: bool = False
    served: str = "sentence-transformers."


EVERYWHERE = (
    "sentence-transformers, Infinity, TEI, vLLM, and llama.cpp by `prune2vec export --target gguf`, or that says why not."
)
"""Who serves the poolings that every server has."""
_WEIGHTED = (
    "sentence-transformers and Infinity. TEI and llama.cpp have no weighted mean; vLLM pools the last token, with a warning."
)

POOLINGS: Mapping[str, PoolingMethod] = {
    "cls": PoolingMethod(weights=cls, flag="pooling_mode_cls_token", vllm=True, served=EVERYWHERE),
    "mean": PoolingMethod(weights=mean, flag="pooling_mode_mean_tokens", vllm=True, served=EVERYWHERE),
    "max": PoolingMethod(weights=largest, flag="pooling_mode_max_tokens"),
    "mean_sqrt_len_tokens": PoolingMethod(weights=mean_sqrt_len_tokens, flag="pooling_mode_mean_sqrt_len_tokens"),
    "weightedmean": PoolingMethod(weights=weightedmean, flag="pooling_mode_weightedmean_tokens", served=_WEIGHTED),
    "weightedmean-paper": PoolingMethod(weights=weightedmean_paper),
    "lasttoken": PoolingMethod(weights=lasttoken, flag="pooling_mode_lasttoken", vllm=True, served=EVERYWHERE),
}
"""By sentence-transformers' name."""
IN_FOLDERS = {name: method for name, method in POOLINGS.items() if method.flag}
IN_VLLM = {name: method for name, method in POOLINGS.items() if method.vllm}

poolings: Registry[PoolingFn] = Registry("pooling")
"""Those that can be measured and trained with, as functions from masks to weights."""
for _name, _method in POOLINGS.items():
    poolings.register(_name)(_method.weights)


def pooling_flags(pooling: str, known: Mapping[str, PoolingMethod]) -> dict[str, bool]:
    """Return the entries of a pooling config that say by which of the ``known`` poolings an encoder pools."""
    return {str(method.flag): name == pooling for name, method in known.items()}
