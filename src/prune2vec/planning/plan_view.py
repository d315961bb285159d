"""A plan for people: what stays, and what that means in parameters, FLOPs and memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.shares import share_text


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
    """Return what a plan means, before and after: layers, sub-layers, neurons, parameters, FLOPs per token, memory.

    ``params_proportional`` is the L3Prune paper's count, which knows whole layers only. ``neurons`` are those of all MLPs
    together, a cut that is still to be made included; ``mlp_width`` is the narrowest and the widest MLP as it stands in the
    plan. Both are left out where the model's neurons are not known. ``params_cut`` says what the parameters that go belong to;
    ``texts``, of a cut vocabulary, how many of the texts that were counted change, and the tokens of a text.
    """
    whole, kept, shape = tuple(range(plan.num_layers)), plan.kept, plan.shape
    before, after = shape.flops_per_token(whole, length=length), shape.flops_per_token(kept, length=length)
    neurons: dict[str, Any] = {}
    if full := shape.mlp_width:
        left = sum(full[layer] for layer in kept.mlps) - kept.cut_neurons(full)
        neurons = {
            "neurons": {"before": sum(full), "after": left},
            "mlp_width": {"before": [min(full), max(full)], "after": _extremes(plan)},
        }
    vocabulary: dict[str, Any] = {}
    if plan.vocabulary is not None:
        cut = plan.vocabulary
        vocabulary = {
            "tokens": {"before": shape.token_rows, "after": len(cut.kept)},
            "texts": {"counted": cut.texts, "changed": cut.changed},
            "tokens_per_text": {"before": cut.tokens_before / cut.texts, "after": cut.tokens_after / cut.texts},
        }
    # With layers, with what goes inside those that stay, and with tokens.
    cuts = (Kept(layers=whole), Kept(layers=kept.layers), replace(kept, vocabulary=None), kept)
    gone = [more - less for more, less in pairwise(map(shape.params, cuts))]
    return {
        "layers": {"before": plan.num_layers, "after": len(kept.layers)},
        "attention": {"before": plan.num_layers, "after": len(kept.attentions)},
        "mlps": {"before": plan.num_layers, "after": len(kept.mlps)},
        **neurons,
        **vocabulary,
        "params": {"before": shape.params(whole), "after": shape.params(kept)},
        "params_cut": dict(zip(("layers", "inside layers", "vocabulary"), gone, strict=True)),
        "params_proportional": {"before": shape.params(whole), "after": shape.proportional_params(len(kept.layers))},
        "flops_per_token": {"before": before, "after": after, "length": length},
        "memory_bytes": {"before": shape.memory_bytes(whole), "after": shape.memory_bytes(kept)},
        "predicted_speedup": before / after,
    }


def render_plan(plan: PruningPlan) -> str:
    """Return a plan as a short text table."""
    figures = plan_figures(plan)
    settings = ", ".join(f"{key} {value}" for key, value in plan.parameters.items() if not isinstance(value, Mapping))
    rows: list[tuple[str, str, Callable[[Any], str]]] = [("layers", "layers", str)]
    if not plan.kept.whole_blocks:
        rows += [("attention", "attention", str), ("MLPs", "mlps", str)]
        rows += [("neurons of all MLPs", "neurons", _count)] if "neurons" in figures else []
    rows += [("tokens", "tokens", str), ("tokens a text", "tokens_per_text", "{:.1f}".format)] if "tokens" in figures else []
    rows += [
        ("parameters", "params", _count),
        ("  by the paper's n/N", "params_proportional", _count),
        (f"FLOPs per token at {figures['flops_per_token']['length']}", "flops_per_token", _count),
        ("memory, estimated", "memory_bytes", lambda size: f"{size / 1e6:,.0f} MB"),
    ]
    lines = [
        f"model    {plan.model.get('name')}",
        f"method   {plan.method}{f' ({settings})' if settings else ''}",
        *(f"{verb:<8} {what}" for verb, what in _cuts(plan)),
        *(f"note     {note}" for note in plan.notes),
        "",
        f"{'':<26}{'before':>12}{'after':>12}{'share':>9}",
    ]
    for label, name, form in rows:
        pair = figures[name]
        share = 100 * pair["after"] / pair["before"]
        lines.append(f"{label:<26}{form(pair['before']):>12}{form(pair['after']):>12}{share:>8.1f}%")
    lines.append(f"{'speed, from FLOPs':<26}{'1.00x':>12}{figures['predicted_speedup']:>11.2f}x")
    if plan.vocabulary is not None:
        taken = sorted(figures["params_cut"].items(), key=lambda item: -item[1])
        lines.append(f"parameters that go: {', '.join(f'{_count(size)} {what}' for what, size in taken if size)}")
    return "\n".join(lines)


def cut_summary(plan: PruningPlan) -> str:
    """Return what a plan keeps and drops as one phrase: ``keeps 0-17 of 0-29; drops MLP of 4-9``."""
    return "; ".join(f"{verb} {what}" for verb, what in _cuts(plan))


def _cuts(plan: PruningPlan) -> list[tuple[str, str]]:
    """Return (verb, what) for the blocks, for each kind of sub-layer that goes, and for the width."""
    cuts = [("keeps", f"{layer_ranges(plan.keep_layers)} of 0-{plan.num_layers - 1}")]
    for what, layers in (("attention", plan.drop_attention), ("MLP", plan.drop_mlp)):
        if layers:
            cuts.append(("drops", f"{what} of {layer_ranges(layers)}"))
    if plan.width_cut:
        share = share_text(plan.width_cut)
        cuts.append(("width", f"{share} of the remaining MLPs' neurons, still to be cut with prune2vec slim"))
    elif plan.neurons:
        (low, high), full = _extremes(plan), max(plan.shape.mlp_width)
        how = plan.parameters.get("slim", {}).get("ranking", "")
        cuts.append(("width", f"{low:,} to {high:,} of {full:,} neurons an MLP{f', by {how}' if how else ''}"))
    if plan.vocabulary is not None:
        cut = plan.vocabulary
        changed = f"{cut.changed / cut.texts:.2%} of {cut.texts:,} texts change"
        cuts.append(("tokens", f"{len(cut.kept):,} of {plan.shape.token_rows:,}; {changed}"))
    return cuts


def _extremes(plan: PruningPlan) -> list[int]:
    """Return the width of the narrowest and of the widest MLP that stays."""
    widths = [plan.kept.widths.get(layer, plan.shape.mlp_width[layer]) for layer in plan.kept.mlps]
    return [min(widths), max(widths)]


def _count(number: int) -> str:
    for unit, size in (("T", 10**12), ("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)
