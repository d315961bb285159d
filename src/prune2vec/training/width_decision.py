"""From scores to a plan: their file, how many neurons go, whether that is what was asked for, and the plan that results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prune2vec.errors import DataError, PlanError, reason_of
from prune2vec.files import write_bytes
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import Budget
from prune2vec.planning.shares import share_text
from prune2vec.progress import say
from prune2vec.training.neuron_importance import TEXTS, importances
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.width import WidthRule, choose_neurons, choose_widths, count_of, fewest_left, most_taken, smallest_cut

FORMAT = "prune2vec.scores/2"
NumpyScores = Mapping[int, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class NeuronScores:
    """Scores of neurons, and where they come from; from their file another share can be cut without measuring again.

    Attributes:
        scores: By original layer, a float32 number a neuron.
        identity: What they depend on: model, what is kept of it, texts and settings.
        facts: What the importance noted.
    """

    scores: NumpyScores
    identity: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the scores as safetensors, whole or not at all; what else there is goes into the header.

        Raises:
            CheckpointError: The file cannot be written.
        """
        about = {"format": FORMAT, "identity": json.dumps(self.identity), "facts": json.dumps(self.facts)}
        write_bytes(path, save({str(layer): values for layer, values in self.scores.items()}, metadata=about))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read back what ``save`` wrote.

        Raises:
            DataError: The file is missing or is something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise DataError(f"{path}: no scores of neurons (expected format {FORMAT!r}); prune2vec slim writes them")
                scores = {int(name): file.get_tensor(name) for name in sorted(file.keys(), key=int)}
                return cls(scores=scores, identity=json.loads(about["identity"]), facts=json.loads(about["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"cannot read the scores in {path}: {reason_of(error)}") from error


def scores_beside(plan: Path, importance: str) -> Path:
    """Return where an importance's scores for a plan lie: ``slim-plan.gates.scores.safetensors`` for ``slim-plan.json``."""
    return plan.with_name(f"{plan.stem}.{importance}.scores.safetensors")


def full(plan: PruningPlan) -> PruningPlan:
    """Return the plan with all neurons of the MLPs that stay."""
    return replace(plan, width_cut=Fraction(0), neurons={})


def check_slim(plan: PruningPlan, settings: SlimSettings, *, texts: bool, scores: bool) -> None:
    """Refuse before the long work starts, and before a model is loaded, what could not be cut by any scores.

    Args:
        plan: What is kept.
        settings: How to score and how much to cut.
        texts: Whether there are any.
        scores: Whether there are scores to cut by, so that nothing is measured.

    Raises:
        ConfigError: There is no such importance.
        DataError: The importance looks at texts, and there are none.
        PlanError: How much to cut is not said, cannot be met, or breaks the limits that the plan was made for.
    """
    needs_texts = TEXTS in importances.reads(settings.importance)
    if settings.width_cut is None and settings.max_params is None and not plan.width_cut:
        state = "its width is decided already" if plan.neurons else "the plan cuts no width"
        raise PlanError(f"{state}; say how much to cut: width_cut (--width-cut 30%) or max_params, or a plan that says it")
    plan.shape.check_can_drop(replace(plan.kept, width_cut=Fraction(1, 2)))
    blank = {layer: np.zeros(plan.shape.mlp_width[layer], dtype=np.float32) for layer in plan.kept.mlps}
    _widths(plan, blank, settings)
    if settings.max_params is None:
        left = fewest_left(blank, _rule(settings), cut=_asked(plan, blank, settings))
        _check_left(plan, settings, left=left, total=sum(map(len, blank.values())))
    if needs_texts and not texts and not scores:
        raise DataError(f"importance {settings.importance!r} looks at texts and got none; give triplets (--texts)")


def decided(plan: PruningPlan, found: NeuronScores, settings: SlimSettings) -> PruningPlan:
    """Return the plan with the neurons that stay by these scores; what a reader should know about the cut is said.

    Raises:
        PlanError: The scores do not allow what was asked for, or the plan's own limits are broken.
    """
    widths = _widths(plan, found.scores, settings)
    total, left = sum(map(len, found.scores.values())), sum(widths.values())
    _check_left(plan, settings, left=left, total=total)
    wanted, cut = _asked(plan, found.scores, settings), total - left
    if 2 * cut < wanted:
        say(f"{cut} neurons go, under half of the {wanted} that were asked for: the rules for the widths keep the others")
    worthless = sum(int(np.count_nonzero(values == 0)) for values in found.scores.values())
    if worthless > cut:
        say(
            f"{worthless} neurons score 0, more than the {cut} to cut: among them deeper layers go first, by rule and not "
            "by merit; lower learning_rate or steps, or cut more"
        )
    asked = {"width_cut": str(_share(plan, settings))} if settings.max_params is None else {"max_params": settings.max_params}
    used = found.identity["settings"]
    return full(plan).slimmed(
        choose_neurons(found.scores, widths),
        **asked,
        floor=str(settings.floor),
        multiple=settings.multiple,
        uniform=settings.uniform,
        of=total,
        cut=cut,
        **{name: used[name] for name in ("ranking", "seed") if name in used},
        **({"steps": found.facts["steps"]} if "steps" in found.facts else {}),
        texts=found.identity["data"],
    )


def _rule(settings: SlimSettings) -> WidthRule:
    return WidthRule(floor=settings.floor, multiple=settings.multiple, uniform=settings.uniform)


def _share(plan: PruningPlan, settings: SlimSettings) -> Fraction:
    return plan.width_cut if settings.width_cut is None else settings.width_cut


def _asked(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings) -> int:
    """Return how many neurons are to go, before any rounding of widths."""
    if settings.max_params is None:
        return count_of(_share(plan, settings), scores)
    kept = full(plan).kept
    over = plan.shape.params(kept) - settings.max_params
    # Rounded up: a neuron too many, rather than a parameter.
    return max(0, -(-over // plan.shape.neuron_params[kept.mlps[0]]))


def _widths(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings) -> dict[int, int]:
    rule, asked = _rule(settings), _asked(plan, scores, settings)
    if settings.max_params is None:
        return choose_widths(scores, rule, cut=asked)
    most, kept = most_taken(scores, rule), full(plan).kept
    if asked > most:
        least = plan.shape.params(kept) - most * plan.shape.neuron_params[kept.mlps[0]]
        raise PlanError(
            f"at least {least:,} parameters stay, which is over {settings.max_params:,}: the rules for the widths let {most:,} of "
            f"{sum(map(len, scores.values())):,} neurons go; drop more layers or sub-layers first, or lower floor or multiple"
        )
    return choose_widths(scores, rule, cut=smallest_cut(scores, rule, at_least=asked))


def _check_left(plan: PruningPlan, settings: SlimSettings, *, left: int, total: int) -> None:
    """Refuse a cut by a share that cuts nothing, or that breaks the limits that the plan was made for."""
    if settings.max_params is not None:
        return
    share = _share(plan, settings)
    if share and left == total:
        raise PlanError(
            f"{share_text(share)} of {total} neurons should go, but by the rules for the widths none does; lower multiple, "
            "leave uniform out, or cut more"
        )
    if settings.width_cut is None:
        given = {name: plan.parameters[name] for name in Budget.model_fields if name in plan.parameters}
        cut = replace(full(plan).kept, width_cut=Fraction(total - left, total))
        over = Budget.build(given, where="plan").exceeded(plan.shape, cut)
        if over:
            raise PlanError(
                f"with these widths the encoder is over the limits that the plan was made for: {'; '.join(over)}; lower multiple, "
                "leave uniform out, or give --max-params"
            )


def slim_figures(plan: PruningPlan) -> dict[str, Any]:
    """Return the widths by layer, and what they come to in neurons and parameters; JSON-ready."""
    kept, shape = plan.kept, plan.shape
    layers = [
        {"layer": layer, "before": shape.mlp_width[layer], "after": kept.widths.get(layer, shape.mlp_width[layer])}
        for layer in kept.mlps
    ]
    return {
        "layers": layers,
        "neurons": {key: sum(line[key] for line in layers) for key in ("before", "after")},
        "params": {"before": shape.params(full(plan).kept), "after": shape.params(kept)},
    }


def render_slim(plan: PruningPlan) -> str:
    """Return the widths as a small table, and the totals that were really reached."""
    figures = slim_figures(plan)
    neurons, params = figures["neurons"], figures["params"]
    cut = neurons["before"] - neurons["after"]
    return "\n".join(
        [
            f"{'layer':>5}  {'before':>7}  {'after':>7}  {'share':>6}",
            *(
                f"{line.get('layer', 'all'):>5}  {line['before']:>7,}  {line['after']:>7,}  {line['after'] / line['before']:>6.1%}"
                for line in (*figures["layers"], neurons)
            ),
            f"cut {cut:,} of {neurons['before']:,} neurons ({cut / neurons['before']:.2%}): "
            f"{params['before'] / 1e6:,.1f} M parameters become {params['after'] / 1e6:,.1f} M",
        ]
    )
