"""Profiles made from curves, so that planners are tested without any model."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from prune2vec.models.shape import ModelShape
from prune2vec.profiling.profile import LayerLoss, Profile


def made_shape(layers: int, *, block: int = 1000, embedding: int = 5000) -> ModelShape:
    """Return the shape of a model whose later blocks are a little larger, so that no two sums are alike.

    A third of a block is attention; the rest is an MLP of 60 neurons, whose size grows by what its norm and biases take.
    """
    sizes = tuple(block + layer for layer in range(layers))
    attention, neuron = block // 3, block // 100
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
        attention_params=(attention,) * layers,
        attention_matmul_params=(attention - 32,) * layers,
        mlp_params=tuple(size - attention for size in sizes),
        mlp_matmul_params=tuple(size - attention - 32 for size in sizes),
        mlp_width=(60,) * layers,
        neuron_params=(neuron,) * layers,
        neuron_matmul_params=(neuron,) * layers,
    )


def made_sections(loss: Sequence[float]) -> dict[str, dict[str, Any]]:
    """Return what the scorers of cuts inside blocks would measure on a model with this layer-loss curve.

    Later MLPs matter less, with a wiggle, and earlier attentions do.
    """
    layers = range(len(loss))
    wiggle = [0.003 * ((layer * 5) % 7) for layer in layers]
    mlp = [0.3 - 0.01 * layer + extra for layer, extra in zip(layers, wiggle, strict=True)]
    attention = [2 * value for value in sorted(mlp)]
    block = [one + other for one, other in zip(mlp, attention, strict=True)]
    rows = {"attention": attention, "mlp": mlp, "block": block}
    plain = {kind: [1.0 - value for value in row] for kind, row in rows.items()}
    order = sorted(layers, key=lambda layer: (mlp[layer], -layer))
    return {
        "redundancy": {**rows, "tokens": 1000, "texts": "retrieval"},
        "redundancy-plain": {**plain, "tokens": 1000, "texts": "plain"},
        "redundancy-iterative": {kind: [*order[1:], order[0]] for kind in rows},
        "magnitude": {"relative": block, "weight": attention, "tokens": 1000},
        "angular-distance": {
            "distance": [[(1 + n + layer) / (100 + layer) for n in range(len(loss) - layer)] for layer in layers],
            "texts": 10,
        },
        "linear-fit": {
            "prefix": [(1 + layer) / len(loss) for layer in layers],
            "order": [*order[1:]],
            "cosine": [1 - 0.01 * number for number in layers],
            "texts": 10,
        },
        "ablation": {"order": [*order[1:]], "loss": [1.0 + 0.1 * number for number in layers]},
    }


def made_profile(
    loss: Sequence[float],
    *,
    spread: Sequence[Sequence[float]] = ((0.0,), (0.0,)),
    sections: Mapping[str, Mapping[str, Any]] | None = None,
) -> Profile:
    """Return a profile with this curve.

    Args:
        loss: Loss at each depth, depth 1 first.
        spread: What each group adds to the curve: one number for all depths, or one a depth. The sum should be zero.
        sections: What other scorers measured; all that planners know when None.
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
        sections=made_sections(loss) if sections is None else sections,
        texts={"rows": 1280},
        settings={"seed": 42},
        environment={"python": "3.11"},
    )


def curve_with_minima(layers: int, *minima: int) -> list[float]:
    """Return a curve of ``layers`` depths, high everywhere but at ``minima``, where it dips."""
    return [1.0 + 0.001 * depth if depth in minima else 2.0 + 0.01 * ((depth * 7) % 5) for depth in range(1, layers + 1)]
