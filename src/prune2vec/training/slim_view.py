"""A slimmed plan for people: the width of every MLP before and after."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from prune2vec.planning.plan import PruningPlan


def slim_figures(plan: PruningPlan) -> dict[str, Any]:
    """Return the widths by layer, and what they come to in neurons and parameters; JSON-ready."""
    kept, shape = plan.kept, plan.shape
    full = replace(kept, width_cut=Fraction(0), widths={})
    layers = [
        {"layer": layer, "before": shape.mlp_width[layer], "after": kept.widths.get(layer, shape.mlp_width[layer])}
        for layer in kept.mlps
    ]
    return {
        "layers": layers,
        "neurons": {key: sum(line[key] for line in layers) for key in ("before", "after")},
        "params": {"before": shape.params(full), "after": shape.params(kept)},
    }


def render_slim(plan: PruningPlan) -> str:
    """Return the widths as a small table, and the totals that were really reached."""
    figures = slim_figures(plan)
    lines = [f"{'layer':>5}  {'before':>7}  {'after':>7}  {'share':>6}"]
    lines += [_line(f"{line['layer']}", line) for line in figures["layers"]]
    lines.append(_line("all", figures["neurons"]))
    neurons, params = figures["neurons"], figures["params"]
    cut = neurons["before"] - neurons["after"]
    lines.append(
        f"cut {cut:,} of {neurons['before']:,} neurons ({cut / neurons['before']:.2%}): "
        f"{params['before'] / 1e6:,.1f} M parameters become {params['after'] / 1e6:,.1f} M"
    )
    return "\n".join(lines)


def _line(name: str, figures: dict[str, int]) -> str:
    return f"{name:>5}  {figures['before']:>7,}  {figures['after']:>7,}  {figures['after'] / figures['before']:>6.1%}"
