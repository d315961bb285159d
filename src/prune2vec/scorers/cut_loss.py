"""Layer-loss curves of cut models: what dropped MLPs and silent neurons cost at every depth, to guide a search for plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from prune2vec.backbone.load import Backbone
from prune2vec.backbone.selftest import check_sub_layers
from prune2vec.records.kept import Kept
from prune2vec.records.redundancy import Redundancy
from prune2vec.scorers.activations import least_active, mean_activations, silenced
from prune2vec.scorers.groups import TokenGroup, distinct_rows, token_count
from prune2vec.scorers.layer_loss import measured_as
from prune2vec.scorers.redundancy import REDUNDANCY, redundancy
from prune2vec.scorers.registry import Advance, Found, Work, scorers
from prune2vec.scorers.settings import LAYER_LOSS, ProfileSettings
from prune2vec.sublayers import SubLayers
from prune2vec.surgery.cut import cut_model

_WIDTH_CUTS = (Fraction(1, 10), Fraction(2, 10), Fraction(3, 10), Fraction(5, 10))


@scorers.register("cut-loss")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Loss of every depth without the most redundant MLPs, and without the least active neurons."""
    parts = check_sub_layers(backbone.model, backbone.family)
    counts, shares = drop_counts(backbone.shape.num_layers), _WIDTH_CUTS if parts.neurons is not None else ()
    # One pass for the order of the MLPs, one for the whole model, one a variant; activations take one of their own.
    passes, tokens = 2 + len(counts) + (1 + len(shares) if shares else 0), token_count(groups)

    def measure(advance: Advance, found: Found) -> Mapping[str, Any]:
        curves = _Curves(backbone, groups, settings, parts, advance)
        whole = list(found[LAYER_LOSS]["loss"]) if LAYER_LOSS in found else curves.of(backbone)
        order = list(Redundancy.from_json(found[REDUNDANCY]).order("mlp")) if REDUNDANCY in found else curves.mlp_order()
        return {
            "mlp_order": order,
            "drops": [0, *counts],
            "drop_loss": [whole, *(curves.without_mlps(order[:count]) for count in counts)],
            "width_cuts": ["0", *map(str, shares)],
            "width_loss": [whole, *curves.narrower(shares)],
        }

    return Work(passes * tokens, measure, reuses={LAYER_LOSS: tokens, REDUNDANCY: tokens})


def drop_counts(layers: int) -> tuple[int, ...]:
    """Return how many MLPs to drop: about every eighth of the layers, up to three quarters of them."""
    return tuple(sorted({layers * eighths // 8 for eighths in range(1, 7)} - {0}))


@dataclass(frozen=True)
class _Curves:
    """Losses at depth 1 to N of variants of one model, all measured on the same groups."""

    backbone: Backbone
    groups: Sequence[TokenGroup]
    settings: ProfileSettings
    parts: SubLayers
    advance: Advance

    def of(self, backbone: Backbone) -> list[float]:
        return list(measured_as(backbone, self.groups, self.settings, self.advance).loss)

    def mlp_order(self) -> list[int]:
        rows, budget = distinct_rows(self.groups), self.settings.token_budget
        return list(redundancy(self.backbone, self.parts, rows, token_budget=budget, advance=self.advance).order("mlp"))

    def without_mlps(self, layers: Sequence[int]) -> list[float]:
        # A block without its MLP is still a block, so depths stay what they are.
        kept = Kept.of(range(self.backbone.shape.num_layers), drop_mlp=layers)
        return self.of(replace(self.backbone, model=cut_model(self.backbone.model, kept, share=True)))

    def narrower(self, shares: Sequence[Fraction]) -> list[list[float]]:
        neurons = self.parts.neurons
        if neurons is None or not shares:
            return []
        rows, budget = distinct_rows(self.groups), self.settings.token_budget
        activations = mean_activations(self.backbone, neurons, rows, token_budget=budget, advance=self.advance)
        total = sum(len(layer) for layer in activations)
        curves = []
        for share in shares:
            with silenced(self.backbone, neurons, least_active(activations, math.floor(share * total))):
                curves.append(self.of(self.backbone))
        return curves
