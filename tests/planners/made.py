"""Profiles made from curves, so that planners are tested without any model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from prune2vec.records.profile import LayerLoss, Profile
from prune2vec.records.shape import ModelShape


def made_shape(layers: int, *, block: int = 1000, embedding: int = 5000) -> ModelShape:
    """Return the shape of a model whose later blocks are a little larger, so that no two sums are alike."""
    sizes = tuple(block + layer for layer in range(layers))
    return ModelShape(
        model_type="llama",
        num_layers=layers,
        hidden_size=32,
        attention_width=32,
        embedding_params=embedding,
        block_params=sizes,
        block_matmul_params=tuple(size - 64 for size in sizes),
        final_params=32,
        bytes_per_param=2,
    )


def made_profile(loss: Sequence[float], *, spread: Sequence[Sequence[float]] = ((0.0,), (0.0,))) -> Profile:
    """Return a profile with this curve.

    Args:
        loss: Loss at each depth, depth 1 first.
        spread: What each group adds to the curve: one number for all depths, or one a depth. The sum should be zero.
    """
    rows = [[*extra] * len(loss) if len(extra) == 1 else [*extra] for extra in spread]
    groups = tuple(tuple(value + more for value, more in zip(loss, row, strict=True)) for row in rows)
    errors = [statistics.stdev(column) / len(groups) ** 0.5 if len(groups) > 1 else 0.0 for column in zip(*groups, strict=True)]
    flat = tuple(0.5 for _ in loss)
    return Profile(
        model={"name": "made", "revision": None, "fingerprint": "sha256:made"},
        shape=made_shape(len(loss)),
        layer_loss=LayerLoss(
            loss=tuple(map(float, loss)),
            std_error=tuple(errors),
            accuracy=flat,
            alignment=flat,
            uniformity=flat,
            group_loss=groups,
        ),
        texts={"rows": 1280},
        settings={"seed": 42},
        environment={"python": "3.11"},
    )


def curve_with_minima(layers: int, *minima: int) -> list[float]:
    """Return a curve of ``layers`` depths, high everywhere but at ``minima``, where it dips."""
    return [1.0 + 0.001 * depth if depth in minima else 2.0 + 0.01 * ((depth * 7) % 5) for depth in range(1, layers + 1)]
