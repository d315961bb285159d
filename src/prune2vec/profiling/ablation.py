"""What is lost without single blocks: the block that is missed least goes, and all are measured anew.

The greedy search of SLEB (arXiv 2402.09025) and Shortened LLaMA (arXiv 2402.02834), with one of two measures in the place of the
perplexity: the loss of embeddings (L3Prune, section 3), or how much of the whole model's vectors a linear layer makes of the cut's.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from prune2vec.forward.backbone import Backbone, PooledDepths
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.layer_loss import LossCurve
from prune2vec.profiling.measure import Measured, Measurement, scorers
from prune2vec.profiling.profile import most_redundant_first
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows
from prune2vec.ridge import best_ridge_fit

# Of linear-fit: so many texts, of whose vectors at every depth at most so many bytes are held.
_TEXTS = 1024
_VECTORS_BYTES = 256 << 20


@scorers.register("ablation")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Order in which blocks go when each time the one goes without which the loss is least; one pass a candidate."""
    scale, pooling = settings.scale, settings.pooling or TextSettings().pooling
    curve = LossCurve(backbone, groups, scale=scale, pooling=pooling)
    curve.later = curve.tokens * sum(_candidates(backbone, settings))
    (whole,) = yield [curve]
    order, losses = yield from _greedy(
        backbone, settings, lambda kept: FinalLoss(backbone, groups, kept, scale=scale, pooling=pooling)
    )
    return {"order": order, "loss": [whole.loss[-1], *losses]}


@scorers.register("linear-fit")
def score_linear_fit(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """How much of the whole model's vectors a linear layer makes of each depth's, and without which blocks; a pass a candidate."""
    layers, pooling = backbone.shape.num_layers, settings.pooling or TextSettings().pooling
    width = int(backbone.model.config.hidden_size)
    rows = distinct_rows(groups)[: max(1, min(_TEXTS, _VECTORS_BYTES // (4 * layers * width)))]
    every = DepthVectors(backbone, rows, pooling)
    every.later = every.tokens * sum(_candidates(backbone, settings))
    (by_depth,) = yield [every]
    targets = normalize(by_depth[-1], dim=1)
    prefix = [best_ridge_fit(vectors, targets, bias=True).cosine for vectors in by_depth]
    order, lost = yield from _greedy(backbone, settings, lambda kept: FinalFit(backbone, rows, pooling, kept, targets))
    return {"prefix": prefix, "order": order, "cosine": [prefix[-1], *(1 - one for one in lost)], "texts": len(rows)}


def _candidates(backbone: Backbone, settings: ProfileSettings) -> list[int]:
    """Return how many blocks can go in each round."""
    layers = backbone.shape.num_layers
    return [layers - int(backbone.shape.first_stays) - number for number in range(settings.rounds_of(layers))]


def _greedy(
    backbone: Backbone,
    settings: ProfileSettings,
    measurement: Callable[[Kept], Measurement],
) -> Generator[Sequence[Measurement], Sequence[Any], tuple[list[int], list[float]]]:
    """Return the order in which blocks go, and the results, which are what is missed without them and those before."""
    left, gone, lost = list(range(backbone.shape.num_layers)), list[int](), list[float]()
    # Where the first layer is built otherwise than all others, no other one can take its place.
    first = int(backbone.shape.first_stays)
    for _ in _candidates(backbone, settings):
        candidates = {layer: Kept.whole(other for other in left if other != layer) for layer in left[first:]}
        found = yield [measurement(kept) for kept in candidates.values()]
        by_layer = dict(zip(candidates, found, strict=True))
        gone.append(most_redundant_first(by_layer)[0])
        lost.append(by_layer[gone[-1]])
        left.remove(gone[-1])
    return gone, lost


class DepthVectors(PooledDepths, Measurement):
    """The vectors of rows at every depth: (row, dim) each, fp32, on the CPU."""

    def __init__(self, backbone: Backbone, rows: Sequence[TokenRow], pooling: str) -> None:
        super().__init__(backbone, pooling, self._take)
        self.rows, self.key = tuple(rows), ("vectors", pooling)
        self._found: dict[int, dict[int, Tensor]] = {}

    def _take(self, layers: tuple[int, ...], places: Sequence[int], vectors: Tensor) -> None:
        for layer, of_layer in zip(layers, vectors.float().cpu(), strict=True):
            self._found.setdefault(layer, {}).update(zip(places, of_layer, strict=True))

    def result(self) -> Any:
        """Return the vectors by depth."""
        return [torch.stack([found[place] for place in range(len(self.rows))]) for _, found in sorted(self._found.items())]


class FinalFit(DepthVectors):
    """How much a linear layer misses of the whole model's vectors, from those of a cut at its end: 1 - mean cosine."""

    def __init__(
        self, backbone: Backbone, rows: Sequence[TokenRow], pooling: str, kept: Kept, targets: Float[Tensor, "row dim"]
    ) -> None:
        super().__init__(backbone, rows, pooling)
        self.kept, self.key = kept, ("linear fit", pooling)
        self._targets = targets

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Pool the output of the last block."""
        assert self.kept is not None
        return super().hooks(layer, block) if layer == len(self.kept.layers) - 1 else []

    @cached_property
    def _missed(self) -> float:
        (vectors,) = super().result()
        self._found.clear()  # The profile keeps its measurements; there are hundreds of cuts.
        return 1 - best_ridge_fit(vectors, self._targets, bias=True).cosine

    def result(self) -> float:
        """Return what is missed."""
        return self._missed


class FinalLoss(LossCurve):
    """The loss of a cut of the model at its end, and of no depth before."""

    def __init__(
        self,
        backbone: Backbone,
        groups: Sequence[TokenGroup],
        kept: Kept,
        *,
        scale: float = 50.0,
        pooling: str = "weightedmean",
    ) -> None:
        super().__init__(backbone, groups, scale=scale, pooling=pooling)
        self.kept = kept
        self.key = ("final loss", self.key)

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Pool the output of the last block."""
        assert self.kept is not None
        return super().hooks(layer, block) if layer == len(self.kept.layers) - 1 else []

    def result(self) -> float:  # type: ignore[override]
        """Return the loss."""
        return super().result().loss[0]
