"""The contrastive loss without single blocks: the block whose loss is missed least goes, and all are measured anew.

The greedy search of SLEB (arXiv 2402.09025) and Shortened LLaMA (arXiv 2402.02834), with the loss of embeddings (L3Prune,
section 3) in the place of the perplexity.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.utils.hooks import RemovableHandle

from prune2vec.forward.backbone import Backbone
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.profiling.layer_loss import LossCurve
from prune2vec.profiling.measure import Measured, scorers
from prune2vec.profiling.profile import most_redundant_first
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup


@scorers.register("ablation")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Order in which blocks go when each time the one goes without which the loss is least; one pass a candidate."""
    layers, scale, pooling = backbone.shape.num_layers, settings.scale, settings.pooling or TextSettings().pooling
    rounds = settings.rounds_of(layers)
    left, gone = list(range(layers)), list[int]()
    # Where the first layer is built otherwise than all others, no other one can take its place.
    first = int(backbone.shape.first_stays)
    curve = LossCurve(backbone, groups, scale=scale, pooling=pooling)
    curve.later = curve.tokens * sum(layers - first - number for number in range(rounds))
    losses = [whole.loss[-1] for whole in (yield [curve])]
    for _ in range(rounds):
        candidates = {layer: Kept.whole(other for other in left if other != layer) for layer in left[first:]}
        found = yield [FinalLoss(backbone, groups, kept, scale=scale, pooling=pooling) for kept in candidates.values()]
        by_layer = dict(zip(candidates, found, strict=True))
        gone.append(most_redundant_first(by_layer)[0])
        losses.append(by_layer[gone[-1]])
        left.remove(gone[-1])
    return {"order": gone, "loss": losses}


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

    def end(self) -> None:
        """Hand the vectors on, where the last block has run."""
        if self._seen:
            super().end()

    def result(self) -> float:  # type: ignore[override]
        """Return the loss."""
        return super().result().loss[0]
