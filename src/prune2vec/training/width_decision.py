"""Which neurons stay, from their scores: the scores' file, how many go, whether that is what was asked for, and the new plan.

Of each MLP its best neurons stay, so all that must be settled is how many. Neurons are ordered by score; among equal scores the
one in the deeper layer goes first, and within a layer the one with the higher number.
"""

from __future__ import annotations

import bisect
import json
import math
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

FORMAT = "prune2vec.scores/2"
NumpyScores = Mapping[int, NDArray[np.floating]]
Widths = dict[int, int]


def choose_widths(scores: NumpyScores, settings: SlimSettings, *, cut: int) -> Widths:
    """Return how many neurons of each MLP stay when the ``cut`` lowest of all together go.

    Without a multiple and without ``uniform`` exactly ``cut`` go. With a multiple each width is rounded up; ``uniform`` takes
    the multiple that is nearest to the mean width (the larger of two equally near).

    Args:
        scores: By layer, (neuron,) finite numbers.
        settings: Their floor, multiple and ``uniform``.
        cut: Neurons to cut, of all MLPs together.

    Raises:
        PlanError: Scores are missing or not finite, or the floor keeps too many neurons for such a cut.
    """
    full, least = _limits(scores, settings)
    most = sum(full.values()) - sum(least.values())
    if not 0 <= cut <= most:
        raise PlanError(
            f"{cut} of {sum(full.values())} neurons cannot be cut: with at least {min(least.values())} left in each of "
            f"{len(full)} MLPs at most {most} can; cut less or lower the floor"
        )
    multiple = settings.multiple
    if settings.uniform:
        # The multiple, or the whole width, that is nearest to the mean.
        mean = Fraction(sum(full.values()) - cut, len(full))
        below = math.floor(mean / multiple) * multiple
        above = min(below + multiple, *full.values())
        nearest = below if below and mean - below < above - mean else above
        kept = dict.fromkeys(full, max(nearest, *least.values()))
    else:
        # The ``least`` best of each layer stay whatever they score.
        open_to_cut = []
        for layer, values in scores.items():
            worst = _worst_first(values)[: full[layer] - least[layer]]
            open_to_cut.append(np.stack([values[worst], np.full(len(worst), -layer), -worst]))
        score, minus_layer, minus_neuron = np.concatenate(open_to_cut, axis=1)
        gone = minus_layer[np.lexsort((minus_neuron, minus_layer, score))[:cut]]
        kept = {layer: width - int(np.count_nonzero(gone == -layer)) for layer, width in full.items()}
    return {layer: min(width, math.ceil(Fraction(kept[layer], multiple)) * multiple) for layer, width in full.items()}


def _limits(scores: NumpyScores, settings: SlimSettings) -> tuple[Widths, Widths]:
    """Return the width of every MLP, and how many of its neurons must stay."""
    if not scores:
        raise PlanError("there is no MLP whose neurons could be cut")
    for layer, values in scores.items():
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
            raise PlanError(f"layer {layer}: expected one finite score a neuron, got shape {values.shape} with NaN or infinity")
    full, floor = {layer: len(values) for layer, values in scores.items()}, settings.floor
    return full, {layer: min(width, max(1, math.ceil(floor * width if floor < 1 else floor))) for layer, width in full.items()}


def smallest_cut(scores: NumpyScores, settings: SlimSettings, *, at_least: int) -> int:
    """Return the smallest ``cut`` that takes ``at_least`` neurons away after all rounding; ``most_taken`` is the most there is."""
    full, least = _limits(scores, settings)
    cuts = range(sum(full.values()) - sum(least.values()) + 1)
    return bisect.bisect_left(cuts, at_least, key=lambda cut: _taken(scores, settings, cut))


def most_taken(scores: NumpyScores, settings: SlimSettings) -> int:
    """Return how many neurons really go when as many are cut as the rules for widths allow; the same for all scores."""
    full, least = _limits(scores, settings)
    return _taken(scores, settings, sum(full.values()) - sum(least.values()))


def _taken(scores: NumpyScores, settings: SlimSettings, cut: int) -> int:
    return sum(map(len, scores.values())) - sum(choose_widths(scores, settings, cut=cut).values())


def fewest_left(scores: NumpyScores, settings: SlimSettings, *, cut: int) -> int:
    """Return a number of neurons that stay at least, of all MLPs together, whatever the scores are; exact if ``uniform``."""
    if settings.uniform:
        return sum(choose_widths(scores, settings, cut=cut).values())
    full = [len(values) for values in scores.values()]
    # Each width is a multiple of it, or a full one, so that their sum is a multiple of what divides all of these.
    step = math.gcd(settings.multiple, *full)
    return math.ceil(Fraction(sum(full) - cut, step)) * step


def choose_neurons(scores: NumpyScores, widths: Widths) -> dict[int, tuple[int, ...]]:
    """Return the best neurons of each MLP that becomes narrower, ascending; those that keep all are left out."""
    return {
        layer: tuple(sorted(_worst_first(scores[layer])[-width:].tolist()))
        for layer, width in sorted(widths.items())
        if width < len(scores[layer])
    }


def _worst_first(values: NDArray[np.floating]) -> NDArray[np.intp]:
    return np.lexsort((-np.arange(len(values)), values))


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
        left = fewest_left(blank, settings, cut=_asked(plan, blank, settings))
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
    if settings.max_params is None:
        _check_left(plan, settings, left=left, total=total)
    wanted, cut = _asked(plan, found.scores, settings), total - left
    if (settings.width_cut is not None or settings.max_params is not None) and (over := _over(plan, left=left, total=total)):
        say(f"with the widths that were asked for, the encoder is over the limits that the plan was made for: {over}")
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


def _share(plan: PruningPlan, settings: SlimSettings) -> Fraction:
    return plan.width_cut if settings.width_cut is None else settings.width_cut


def _asked(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings) -> int:
    """Return how many neurons are to go, before any rounding of widths."""
    if settings.max_params is None:
        return math.floor(_share(plan, settings) * sum(map(len, scores.values())))
    kept = full(plan).kept
    over = plan.shape.params(kept) - settings.max_params
    # Rounded up: a neuron too many, rather than a parameter.
    return max(0, -(-over // plan.shape.neuron_params[kept.mlps[0]]))


def _widths(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings) -> Widths:
    asked = _asked(plan, scores, settings)
    if settings.max_params is None:
        return choose_widths(scores, settings, cut=asked)
    most, kept = most_taken(scores, settings), full(plan).kept
    if asked > most:
        least = plan.shape.params(kept) - most * plan.shape.neuron_params[kept.mlps[0]]
        raise PlanError(
            f"at least {least:,} parameters stay, which is over {settings.max_params:,}: the rules for the widths let {most:,} of "
            f"{sum(map(len, scores.values())):,} neurons go; drop more layers or sub-layers first, or lower floor or multiple"
        )
    return choose_widths(scores, settings, cut=smallest_cut(scores, settings, at_least=asked))


def _check_left(plan: PruningPlan, settings: SlimSettings, *, left: int, total: int) -> None:
    """Refuse a cut by a share that cuts nothing, or that breaks the limits that the plan was made for."""
    share = _share(plan, settings)
    if share and left == total:
        raise PlanError(
            f"{share_text(share)} of {total} neurons should go, but by the rules for the widths none does; lower multiple, "
            "leave uniform out, or cut more"
        )
    if settings.width_cut is None and (over := _over(plan, left=left, total=total)):
        raise PlanError(
            f"with these widths the encoder is over the limits that the plan was made for: {over}; lower multiple, "
            "leave uniform out, or give --max-params"
        )


def _over(plan: PruningPlan, *, left: int, total: int) -> str:
    """Return, in words, which of the limits that the plan was made for are not met when so many neurons of ``total`` are left."""
    given = {name: plan.parameters[name] for name in Budget.model_fields if name in plan.parameters}
    cut = replace(full(plan).kept, width_cut=Fraction(total - left, total))
    return "; ".join(Budget.build(given, where="plan").exceeded(plan.shape, cut))


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
