"""L3Prune's layer-wise zero-shot contrastive loss (arXiv 2410.14578, section 3), all depths in one forward pass a text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import PaddingSide
from prune2vec.forward.depths import PooledDepths
from prune2vec.forward.runner import Advance, ModelVariant
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.profiling.contrastive import GroupScores, group_scores
from prune2vec.profiling.profile import LayerLoss
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.scorer import WHOLE, Measurement, Request, Steps, Work, scorers
from prune2vec.profiling.together import measure_alone
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows


@scorers.register("layer-loss")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Loss, accuracy, alignment and uniformity of every depth (L3Prune)."""
    # The model that ends at a depth has the same curve up to there, and nothing beyond is read.
    variant = WHOLE if settings.max_depth is None else ModelVariant(kept=Kept.whole(range(settings.max_depth)))

    def start() -> Steps:
        (curve,) = yield [Request(LossCurve.measured_as(backbone, groups, settings), variant)]
        return asdict(curve)

    return Work(start)


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
        self.rows = distinct_rows(groups)
        self.key = ("loss", tuple(groups), scale, pooling)
        self._groups, self._scale = groups, scale
        place = {row: number for number, row in enumerate(self.rows)}
        self._members = [[place[row] for row in group.rows] for group in groups]
        self._groups_of: list[list[int]] = [[] for _ in self.rows]
        for number, members in enumerate(self._members):
            for member in dict.fromkeys(members):
                self._groups_of[member].append(number)
        self._scores: dict[int, dict[int, GroupScores]] = {}
        self._restart()

    @classmethod
    def measured_as(cls, backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> LossCurve:
        """Return the measurement with scale and pooling as the settings of a profile have them."""
        return cls(backbone, groups, scale=settings.scale, pooling=settings.pooling or TextSettings().pooling)

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
        return summarise_groups([[self._scores[layer][number] for layer in layers] for number in range(len(self._groups))])


def layer_loss(
    backbone: Backbone,
    groups: Sequence[TokenGroup],
    *,
    scale: float = 50.0,
    pooling: str = "weightedmean",
    token_budget: int | None = None,
    padding_side: PaddingSide | None = None,
    advance: Advance = lambda amount: None,
) -> LayerLoss:
    """Return the contrastive loss of every depth, with accuracy, alignment, uniformity and the spread over groups.

    The groups are as given: how texts are batched for the forward passes changes nothing beyond rounding.

    Args:
        backbone: The model.
        groups: Tokenised groups of tuples.
        scale: Factor on the cosine similarities.
        pooling: Name of a registered pooling.
        token_budget: Tokens of one forward pass at most, padding included; None takes what suits the device.
        padding_side: Side on which shorter texts are filled up; None fills up none where that is possible and pays.
        advance: Called with the number of tokens done.

    Raises:
        ProfileError: A vector is NaN or infinite.
    """
    curve = LossCurve(backbone, groups, scale=scale, pooling=pooling)
    found: LayerLoss = measure_alone(backbone, curve, token_budget=token_budget, padding_side=padding_side, advance=advance)
    return found


def summarise_groups(scores: Sequence[Sequence[GroupScores]]) -> LayerLoss:
    """Average scores over groups; ``scores[group][depth - 1]``."""
    losses = [[depth.loss for depth in group] for group in scores]
    by_depth = list(zip(*losses, strict=True))
    return LayerLoss(
        loss=tuple(statistics.fmean(column) for column in by_depth),
        std_error=tuple(_std_error(column) for column in by_depth),
        accuracy=_means(scores, "accuracy"),
        alignment=_means(scores, "alignment"),
        uniformity=_means(scores, "uniformity"),
        group_loss=tuple(tuple(group) for group in losses),
    )


def _means(scores: Sequence[Sequence[GroupScores]], name: str) -> tuple[float, ...]:
    return tuple(statistics.fmean(getattr(group, name) for group in column) for column in zip(*scores, strict=True))


def _std_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
