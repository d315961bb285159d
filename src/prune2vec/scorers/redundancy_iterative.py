"""The order in which sub-layers go when importance is measured anew after each drop (LLM-Drop's iterative script)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prune2vec.backbone.load import Backbone
from prune2vec.backbone.selftest import check_sub_layers
from prune2vec.backbone.tokens import TokenRow
from prune2vec.errors import ConfigError
from prune2vec.records.kept import Kept
from prune2vec.records.redundancy import KINDS, Redundancy, most_redundant_first
from prune2vec.scorers.groups import TokenGroup, distinct_rows, token_count
from prune2vec.scorers.redundancy import REDUNDANCY, redundancy
from prune2vec.scorers.registry import Advance, Found, Work, scorers
from prune2vec.scorers.settings import ProfileSettings
from prune2vec.sublayers import SubLayers
from prune2vec.surgery.cut import cut_model


@scorers.register("redundancy-iterative")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Order of dropping when every attention, MLP or block that goes is followed by a new measurement."""
    layers = backbone.shape.num_layers
    rounds = _rounds(settings.rounds, layers)
    parts = check_sub_layers(backbone.model, backbone.family)
    # The first measurement, of the whole model, serves all three kinds.
    passes, tokens = 1 + len(KINDS) * max(0, rounds - 1), token_count(groups)

    def measure(advance: Advance, found: Found) -> Mapping[str, Any]:
        dropping = _Dropping(backbone, parts, distinct_rows(groups), settings.token_budget, advance)
        known = REDUNDANCY in found
        whole = Redundancy.from_json(found[REDUNDANCY]) if known else dropping.measured(Kept(layers=tuple(range(layers))))
        return {kind: dropping.order(kind, rounds, whole) for kind in KINDS}

    return Work(passes * tokens, measure, reuses={REDUNDANCY: tokens})


def _rounds(wanted: int | None, layers: int) -> int:
    rounds = layers // 2 if wanted is None else wanted
    if rounds >= layers and layers > 1:
        raise ConfigError(f"rounds is {rounds}, but one of {layers} layers must stay; give at most {layers - 1}")
    return min(rounds, layers - 1)


@dataclass(frozen=True)
class _Dropping:
    backbone: Backbone
    parts: SubLayers
    rows: Sequence[TokenRow]
    token_budget: int
    advance: Advance

    def order(self, kind: str, rounds: int, whole: Redundancy) -> list[int]:
        """Return the layers that go in each of ``rounds`` rounds; ``whole`` is the first measurement."""
        every = range(self.backbone.shape.num_layers)
        kept, found, gone = Kept(layers=tuple(every)), whole, list[int]()
        for number in range(rounds):
            if number:
                kept = _without(kind, gone, every)
                found = self.measured(kept)
            left = dict(zip(kept.layers, found.row(kind), strict=True))
            gone.append(most_redundant_first({layer: left[layer] for layer in left if layer not in gone})[0])
        return gone

    def measured(self, kept: Kept) -> Redundancy:
        """Return the redundancy of the model cut to ``kept``; its rows follow ``kept.layers``."""
        model = cut_model(self.backbone.model, kept, share=True)
        backbone = replace(self.backbone, model=model)
        return redundancy(backbone, self.parts, self.rows, token_budget=self.token_budget, advance=self.advance)


def _without(kind: str, gone: Sequence[int], every: range) -> Kept:
    if kind == "block":
        return Kept.of(set(every) - set(gone))
    return Kept.of(every, drop_attention=gone) if kind == "attention" else Kept.of(every, drop_mlp=gone)
