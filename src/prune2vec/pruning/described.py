"""A cut in words and in ``prune2vec.json``: which blocks, sub-layers and widths are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prune2vec.planning.plan import PruningPlan

_FROM_PLAN = ("method", "parameters", "notes", "keep_layers", "drop_attention", "drop_mlp", "num_layers", "profile_digest")


def record_of(plan: PruningPlan) -> dict[str, Any]:
    """Return what ``prune2vec.json`` says about the plan; which neurons stayed is in ``plan.json`` beside it."""
    entries = plan.to_json()
    widths = {str(layer): len(stay) for layer, stay in sorted(plan.neurons.items())}
    return {**{key: entries[key] for key in _FROM_PLAN}, "widths": widths}


def describe_cut(record: Mapping[str, Any]) -> list[str]:
    """Return a line on the blocks and, where they are cut too, one on attention, MLPs and widths each.

    Args:
        record: What ``record_of`` returned; older records know whole blocks only.
    """
    lines = [f"{len(record['keep_layers'])} of {record['num_layers']} layers"]
    for what, key in (("attention", "drop_attention"), ("MLP", "drop_mlp")):
        layers: Sequence[int] = record.get(key) or ()
        if layers:
            lines.append(f"without the {what} of {_layers(layers)}")
    widths: Mapping[str, int] = record.get("widths") or {}
    if widths:
        low, high = min(widths.values()), max(widths.values())
        size = f"{low}" if low == high else f"{low} to {high}"
        lines.append(f"{size} neurons in the MLP of {_layers([int(layer) for layer in widths])}")
    return lines


def _layers(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
