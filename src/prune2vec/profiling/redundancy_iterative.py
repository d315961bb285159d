"""The order in which sub-layers go when importance is measured anew after each drop (LLM-Drop's iterative script)."""

from __future__ import annotations

from collections.abc import Sequence

from prune2vec.errors import ConfigError
from prune2vec.forward.backbone import Backbone
from prune2vec.forward.runner import ModelVariant
from prune2vec.models.kept import KINDS, Kept
from prune2vec.profiling.importance import Redundancy, most_redundant_first
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import SublayerImportance
from prune2vec.profiling.scorer import Request, Steps, Work, scorers
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows, token_count


@scorers.register("redundancy-iterative")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Order of dropping when every attention, MLP or block that goes is followed by a new measurement."""
    layers = backbone.shape.num_layers
    rounds = _rounds(settings.rounds, layers)
    parts, rows = backbone.sub_layers(), distinct_rows(groups)

    def start() -> Steps:
        # The first measurement, of the whole model, serves all three kinds.
        (whole,) = yield [Request(SublayerImportance(backbone, parts, rows))]
        gone: dict[str, list[int]] = {kind: [] for kind in KINDS}
        kept = dict.fromkeys(KINDS, Kept.whole(range(layers)))
        found: dict[str, Redundancy] = {kind: whole for kind in KINDS}
        for number in range(rounds):
            if number:
                kept = {kind: _without(kind, gone[kind], layers) for kind in KINDS}
                wanted = [Request(SublayerImportance(backbone, parts, rows), ModelVariant(kept=kept[kind])) for kind in KINDS]
                found = dict(zip(KINDS, (yield wanted), strict=True))
            for kind in KINDS:
                gone[kind].append(_next(kind, kept[kind], found[kind], gone[kind]))
        return gone

    # The rounds of the three kinds run side by side.
    return Work(start, later=len(KINDS) * max(0, rounds - 1) * token_count(groups))


def _rounds(wanted: int | None, layers: int) -> int:
    rounds = layers // 2 if wanted is None else wanted
    if rounds >= layers and layers > 1:
        raise ConfigError(f"rounds is {rounds}, but one of {layers} layers must stay; give at most {layers - 1}")
    return min(rounds, layers - 1)


def _next(kind: str, kept: Kept, found: Redundancy, gone: Sequence[int]) -> int:
    """Return the layer that goes next; the rows of ``found`` follow ``kept.layers``."""
    left = {layer: value for layer, value in zip(kept.layers, found.row(kind), strict=True) if layer not in gone}
    return most_redundant_first(left)[0]


def _without(kind: str, gone: Sequence[int], layers: int) -> Kept:
    every = range(layers)
    if kind == "block":
        return Kept.of(set(every) - set(gone))
    return Kept.of(every, drop_attention=gone) if kind == "attention" else Kept.of(every, drop_mlp=gone)
