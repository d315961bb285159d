"""L3Prune's layer-wise zero-shot contrastive loss (arXiv 2410.14578, section 3), all depths in one forward pass a text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice

import torch
from torch import Tensor

from prune2vec.forward.backbone import Backbone, PooledDepths
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.models.tokens import distinct
from prune2vec.profiling.contrastive import GroupScores, group_scores
from prune2vec.profiling.profile import LayerLoss
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.scorer import Measured, Measurement, scorers
from prune2vec.profiling.token_groups import TokenGroup


@scorers.register("layer-loss")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Loss, accuracy, alignment and uniformity of every depth (L3Prune)."""
    curve = LossCurve(backbone, groups, scale=settings.scale, pooling=settings.pooling or TextSettings().pooling)
    if settings.max_depth is not None:
        # The model that ends at a depth has the same curve up to there, and nothing beyond is read.
        curve.kept = Kept.whole(range(settings.max_depth))
    (found,) = yield [curve]
    return asdict(found)


class LossCurve(PooledDepths, Measurement):
    """Scores each group at each depth as soon as all of its vectors are there.

    Vectors are kept no longer than the groups that need them: for a model in memory all depths of the texts at hand, for a
    streamed one a single depth of all texts.

    Args:
        backbone: The model.
        groups: Tokenised groups of tuples.
        scale: Factor on the cosine similarities.
        pooling: Name of a registered pooling.
    """

    def __init__(
        self, backbone: Backbone, groups: Sequence[TokenGroup], *, scale: float = 50.0, pooling: str = "weightedmean"
    ) -> None:
        super().__init__(backbone, pooling, self._take)
        found, places = distinct(row for group in groups for row in group.rows)
        self.rows = tuple(found)
        self.key = ("loss", tuple(groups), scale, pooling)
        self._groups, self._scale = groups, scale
        following = iter(places)
        # Of each group the numbers of its rows among the distinct ones, and of each of those the groups that it is in.
        self._members = [list(islice(following, len(group.rows))) for group in groups]
        self._groups_of: list[list[int]] = [[] for _ in found]
        for number, members in enumerate(self._members):
            for member in dict.fromkeys(members):
                self._groups_of[member].append(number)
        self._scores: dict[int, dict[int, GroupScores]] = {}
        self._restart()

    def _restart(self) -> None:
        self._held: dict[int, Tensor] = {}
        self._missing = [len(set(members)) for members in self._members]
        self._needed = [len(numbers) for numbers in self._groups_of]

    def _take(self, layers: tuple[int, ...], places: Sequence[int], vectors: Tensor) -> None:
        for row, place in enumerate(places):
            self._held[place] = vectors[:, row]
            for number in self._groups_of[place]:
                self._missing[number] -= 1
                if not self._missing[number]:
                    self._score(number, layers)
        if not any(self._missing):
            self._restart()

    def _score(self, number: int, layers: tuple[int, ...]) -> None:
        vectors = torch.stack([self._held[member] for member in self._members[number]], dim=1)
        for layer, of_layer in zip(layers, vectors, strict=True):
            parts = self._groups[number].split(of_layer)
            self._scores.setdefault(layer, {})[number] = group_scores(*parts, scale=self._scale)
        for member in dict.fromkeys(self._members[number]):
            self._needed[member] -= 1
            vector = self._held.pop(member)
            if self._needed[member]:
                # A copy, so that its neighbours in the batch can go.
                self._held[member] = vector.clone()

    def result(self) -> LayerLoss:
        """Return the curve."""
        layers = sorted(self._scores)
        by_depth = [[self._scores[layer][number] for number in range(len(self._groups))] for layer in layers]

        def means(name: str) -> tuple[float, ...]:
            return tuple(statistics.fmean(getattr(scores, name) for scores in of_depth) for of_depth in by_depth)

        losses = [[scores.loss for scores in of_depth] for of_depth in by_depth]
        several = len(self._groups) > 1
        return LayerLoss(
            loss=means("loss"),
            std_error=tuple(statistics.stdev(row) / math.sqrt(len(row)) if several else 0.0 for row in losses),
            accuracy=means("accuracy"),
            alignment=means("alignment"),
            uniformity=means("uniformity"),
            group_loss=tuple(zip(*losses, strict=True)),
        )
