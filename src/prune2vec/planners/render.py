"""A plan for people: what stays, and what that means in parameters, FLOPs and memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prune2vec.records.plan import PruningPlan


def layer_ranges(layers: tuple[int, ...]) -> str:
    """Write ``(0, 1, 2, 5)`` as ``0-2, 5``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1][1:] = [layer]
        else:
            runs.append([layer])
    return ", ".join("-".join(map(str, run)) for run in runs)


def plan_figures(plan: PruningPlan, *, length: int = 512) -> dict[str, Any]:
    """Return what a plan means: parameters, the paper's proportional count, FLOPs per token, memory; before and after."""
    whole, keep, shape = tuple(range(plan.num_layers)), plan.keep_layers, plan.shape
    before, after = shape.flops_per_token(whole, length=length), shape.flops_per_token(keep, length=length)
    return {
        "layers": {"before": plan.num_layers, "after": len(keep)},
        "params": {"before": shape.params(whole), "after": shape.params(keep)},
        "params_proportional": {"before": shape.params(whole), "after": shape.proportional_params(len(keep))},
        "flops_per_token": {"before": before, "after": after, "length": length},
        "memory_bytes": {"before": shape.memory_bytes(whole), "after": shape.memory_bytes(keep)},
        "predicted_speedup": before / after,
    }


def render_plan(plan: PruningPlan) -> str:
    """Return a plan as a short text table."""
    figures = plan_figures(plan)
    rows: list[tuple[str, dict[str, int], Callable[[int], str]]] = [
        ("layers", figures["layers"], str),
        ("parameters", figures["params"], _count),
        ("  by the paper's n/N", figures["params_proportional"], _count),
        (f"FLOPs per token at {figures['flops_per_token']['length']}", figures["flops_per_token"], _count),
        ("memory, estimated", figures["memory_bytes"], lambda size: f"{size / 1e6:,.0f} MB"),
    ]
    settings = ", ".join(f"{key} {value}" for key, value in plan.parameters.items())
    lines = [
        f"model    {plan.model.get('name')}",
        f"method   {plan.method}{f' ({settings})' if settings else ''}",
        f"keeps    {layer_ranges(plan.keep_layers)} of 0-{plan.num_layers - 1}",
        *(f"note     {note}" for note in plan.notes),
        "",
        f"{'':<26}{'before':>12}{'after':>12}{'share':>9}",
    ]
    for label, pair, form in rows:
        share = 100 * pair["after"] / pair["before"]
        lines.append(f"{label:<26}{form(pair['before']):>12}{form(pair['after']):>12}{share:>8.1f}%")
    lines.append(f"{'speed, from FLOPs':<26}{'1.00x':>12}{figures['predicted_speedup']:>11.2f}x")
    return "\n".join(lines)


def _count(number: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
