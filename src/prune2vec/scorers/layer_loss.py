"""L3Prune's layer-wise zero-shot contrastive loss (arXiv 2410.14578, section 3), all depths in one forward pass a text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prune2vec.backbone.depths import PaddingSide, pooled_depths
from prune2vec.backbone.load import Backbone
from prune2vec.losses import GroupScores, group_scores
from prune2vec.records.profile import LayerLoss
from prune2vec.scorers.groups import TokenGroup, distinct_rows, token_count
from prune2vec.scorers.registry import Advance, Found, Work, scorers
from prune2vec.scorers.settings import ProfileSettings

# Pooled vectors of as many groups as fit in this much memory are made in one sorted run.
_WINDOW_BYTES = 256 << 20


@scorers.register("layer-loss")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Loss, accuracy, alignment and uniformity of every depth (L3Prune)."""

    def measure(advance: Advance, found: Found) -> Mapping[str, Any]:
        return asdict(measured_as(backbone, groups, settings, advance))

    return Work(token_count(groups), measure)


def measured_as(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings, advance: Advance) -> LayerLoss:
    """Return ``layer_loss`` with scale, pooling and batches as the settings of a profile have them."""
    budget = settings.token_budget
    return layer_loss(backbone, groups, scale=settings.scale, pooling=settings.pooling, token_budget=budget, advance=advance)


def layer_loss(
    backbone: Backbone,
    groups: Sequence[TokenGroup],
    *,
    scale: float = 50.0,
    pooling: str = "weightedmean",
    token_budget: int = 8192,
    padding_side: PaddingSide = "right",
    advance: Advance = lambda amount: None,
) -> LayerLoss:
    """Return the contrastive loss of every depth, with accuracy, alignment, uniformity and the spread over groups.

    The groups are as given: how texts are batched for the forward passes changes nothing beyond rounding.

    Args:
        backbone: The model.
        groups: Tokenised groups of tuples.
        scale: Factor on the cosine similarities.
        pooling: Name of a registered pooling.
        token_budget: Padded tokens in one forward pass.
        padding_side: Side on which shorter texts are filled up.
        advance: Called with the number of tokens done.

    Raises:
        ProfileError: A vector is NaN or infinite.
    """
    scores: list[list[GroupScores]] = []
    for window in _windows(backbone, groups):
        rows = distinct_rows(window)
        place = {row: number for number, row in enumerate(rows)}
        vectors = pooled_depths(
            backbone, rows, pooling=pooling, token_budget=token_budget, padding_side=padding_side, advance=advance
        )
        for group in window:
            of_group = vectors[:, [place[row] for row in group.rows]].to(backbone.model.device)
            scores.append([group_scores(*group.split(depth), scale=scale) for depth in of_group])
    return summarise_groups(scores)


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


def _windows(backbone: Backbone, groups: Sequence[TokenGroup]) -> list[list[TokenGroup]]:
    """Group the groups so that the pooled vectors of one window stay within ``_WINDOW_BYTES``."""
    row_bytes = 4 * backbone.shape.num_layers * backbone.shape.hidden_size
    windows: list[list[TokenGroup]] = []
    held = math.inf
    for group in groups:
        size = len(group.rows) * row_bytes
        if held + size > _WINDOW_BYTES:
            windows.append([])
            held = 0
        windows[-1].append(group)
        held += size
    return windows


def _means(scores: Sequence[Sequence[GroupScores]], name: str) -> tuple[float, ...]:
    return tuple(statistics.fmean(getattr(group, name) for group in column) for column in zip(*scores, strict=True))


def _std_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
