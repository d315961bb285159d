"""L3Prune's layer-wise zero-shot contrastive loss (arXiv 2410.14578, section 3), all depths in one forward pass a text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, pdist

from prune2vec.forward.backbone import Backbone, PooledDepths
from prune2vec.models.kept import Kept
from prune2vec.models.text_settings import TextSettings
from prune2vec.models.tokens import distinct
from prune2vec.profiling.measure import Measured, Measurement, scorers
from prune2vec.profiling.profile import LayerLoss
from prune2vec.profiling.profile_settings import ProfileSettings
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
        self._held: dict[int, Tensor] = {}
        # Rows that a group still waits for, and groups that still need a row; full again for the next block that is streamed.
        self._missing = [len(set(members)) for members in self._members]
        self._needed = [len(numbers) for numbers in self._groups_of]

    def _take(self, layers: tuple[int, ...], places: Sequence[int], vectors: Tensor) -> None:
        for row, place in enumerate(places):
            self._held[place] = vectors[:, row]
            for number in self._groups_of[place]:
                self._missing[number] -= 1
                if not self._missing[number]:
                    self._score(number, layers)

    def _score(self, number: int, layers: tuple[int, ...]) -> None:
        vectors = torch.stack([self._held[member] for member in self._members[number]], dim=1)
        group = self._groups[number]
        sizes = [len(group.queries), len(group.positives), len(group.negatives)]
        for layer, of_layer in zip(layers, vectors, strict=True):
            parts = of_layer.split(sizes)
            self._scores.setdefault(layer, {})[number] = group_scores(*parts, scale=self._scale)
        members = dict.fromkeys(self._members[number])
        self._missing[number] = len(members)
        for member in members:
            self._needed[member] -= 1
            vector = self._held.pop(member)
            if self._needed[member]:
                # A copy, so that its neighbours in the batch can go.
                self._held[member] = vector.clone()
            else:
                self._needed[member] = len(self._groups_of[member])

    def result(self) -> LayerLoss:
        """Return the curve."""
        scores = [[self._scores[layer][number] for number in range(len(self._groups))] for layer in sorted(self._scores)]
        losses = [[one.loss for one in of_depth] for of_depth in scores]
        means = {
            name: tuple(statistics.fmean(getattr(one, name) for one in of_depth) for of_depth in scores)
            for name in ("loss", "accuracy", "alignment", "uniformity")
        }
        several = len(self._groups) > 1
        return LayerLoss(
            **means,
            std_error=tuple(statistics.stdev(row) / math.sqrt(len(row)) if several else 0.0 for row in losses),
            group_loss=tuple(zip(*losses, strict=True)),
        )


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
