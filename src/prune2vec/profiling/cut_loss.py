"""Layer-loss curves of cut models: what dropped MLPs and silent neurons cost at every depth, to guide a search for plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from jaxtyping import Float
from torch import Tensor

from prune2vec.forward.backbone import Backbone
from prune2vec.forward.runner import ModelVariant
from prune2vec.models.kept import Kept
from prune2vec.models.sublayers import Neurons
from prune2vec.profiling.activations import Activations, least_active
from prune2vec.profiling.layer_loss import LossCurve
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import SublayerImportance
from prune2vec.profiling.scorer import Request, Steps, Work, scorers
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows, token_count

_WIDTH_CUTS = (Fraction(1, 10), Fraction(2, 10), Fraction(3, 10), Fraction(5, 10))


@scorers.register("cut-loss")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Loss of every depth without the most redundant MLPs, and without the least active neurons."""
    parts, rows, layers = backbone.sub_layers(), distinct_rows(groups), backbone.shape.num_layers
    counts, shares = drop_counts(layers), _WIDTH_CUTS if parts.neurons is not None else ()

    def curve(variant: ModelVariant) -> Request:
        return Request(LossCurve.measured_as(backbone, groups, settings), variant)

    def start() -> Steps:
        activity = [Request(Activations(parts.neurons, rows))] if parts.neurons is not None else []
        whole, found, *active = yield [
            Request(LossCurve.measured_as(backbone, groups, settings)),
            Request(SublayerImportance(backbone, parts, rows)),
            *activity,
        ]
        order = list(found.order("mlp"))
        # A block without its MLP is still a block, so depths stay what they are.
        variants = [ModelVariant(kept=Kept.of(range(layers), drop_mlp=order[:count])) for count in counts]
        if parts.neurons is not None:
            variants += narrower(parts.neurons, active[0], shares)
        curves = yield [curve(variant) for variant in variants]
        losses = [list(one.loss) for one in (whole, *curves)]
        return {
            "mlp_order": order,
            "drops": [0, *counts],
            "drop_loss": losses[: len(counts) + 1],
            "width_cuts": ["0", *map(str, shares)],
            "width_loss": [losses[0], *losses[len(counts) + 1 :]],
        }

    return Work(start, later=(len(counts) + len(shares)) * token_count(groups))


def narrower(
    neurons: Neurons, activations: Sequence[Float[Tensor, " neuron"]], shares: Sequence[Fraction]
) -> list[ModelVariant]:
    """Return the model with those shares of its least active neurons silent."""
    total = sum(len(layer) for layer in activations)
    return [
        ModelVariant(neurons=neurons, speaking=tuple(least_active(activations, math.floor(share * total)))) for share in shares
    ]


def drop_counts(layers: int) -> tuple[int, ...]:
    """Return how many MLPs to drop: about every eighth of the layers, up to three quarters of them."""
    return tuple(sorted({layers * eighths // 8 for eighths in range(1, 7)} - {0}))
