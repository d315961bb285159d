"""Sets of training defaults with a name: the two papers' recipes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# Stated by EffiR (arXiv 2512.20612): rank, alpha, learning rate, temperature 0.02, seven hard negatives, contrastive loss
# plus KL to a reranker's scores, the instruction. Not stated, and taken from the recipe that it follows (FlagEmbedding's
# decoder-only encoders): 128 queries a step, a linear schedule to zero after 100 warm-up steps, hard negatives drawn
# anew for each row, both losses with weight 1, teacher scores as they are.
_EFFIR: Mapping[str, Any] = {
    "lora_rank": 32,
    "lora_alpha": 64,
    "learning_rate": 1e-4,
    "schedule": "linear-to-zero",
    "batch_size": 128,
    "scale": 50.0,
    "hard_negatives": 7,
    "negative_sampling": "sampled",
    "instruction": "effir",
    "distil": "data",
    "distil_weight": 1.0,
    "teacher_temperature": 1.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"l3prune": {}, "effir": _EFFIR})
"""What each preset sets; everything else keeps the default of ``TrainSettings``, which is L3Prune's."""

WARMUP_STEPS: Mapping[str, int] = MappingProxyType({"effir": 100})
"""Most warm-up steps of a preset; without an entry, three tenths of the steps whatever their number."""


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the preset named in ``values`` sets and ``values`` themselves do not.

    An encoder given as teacher takes the place of the preset's scores.
    """
    name = values.get("preset")
    chosen = PRESETS.get(name, {}) if isinstance(name, str) else {}
    taken = {*values, *(("distil",) if values.get("distil_from") is not None else ())}
    return {key: value for key, value in chosen.items() if key not in taken}
