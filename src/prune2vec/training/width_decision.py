"""From scores to a plan: how many neurons go, whether that is what was asked for, and the plan that results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import DataError, PlanError
from prune2vec.planning.budget import Budget
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.shares import share_text
from prune2vec.progress import say
from prune2vec.training.neuron_importance import TEXTS, importances
from prune2vec.training.scores_file import Ranked
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.width import WidthRule, choose_neurons, choose_widths, count_of, fewest_left, most_taken, smallest_cut

NumpyScores = Mapping[int, NDArray[np.float32]]


def full(plan: PruningPlan) -> PruningPlan:
    """Return the plan with all neurons of the MLPs that stay."""
    return replace(plan, width_cut=Fraction(0), neurons={})


def check_slim(plan: PruningPlan, settings: SlimSettings, *, texts: bool, scores: bool) -> None:
    """Refuse before the long work starts, and before a model is loaded, what could not be cut by any scores.

    Args:
        plan: What is kept.
        settings: How to rank and how much to cut.
        texts: Whether there are any.
        scores: Whether there are scores to cut by, so that nothing is ranked.

    Raises:
        ConfigError: There is no such ranking.
        DataError: The ranking looks at texts, and there are none.
        PlanError: How much to cut is not said, cannot be met, or breaks the limits that the plan was made for.
    """
    needs_texts = TEXTS in importances.reads(settings.ranking)
    _check_says_how_much(plan, settings)
    plan.shape.check_can_drop(replace(plan.kept, width_cut=Fraction(1, 2)))
    blank = {layer: np.zeros(plan.shape.mlp_width[layer], dtype=np.float32) for layer in plan.kept.mlps}
    rule = _rule(settings)
    _widths(plan, blank, settings, rule)
    if settings.max_params is None:
        cut = _asked(plan, blank, settings)
        _check_left(plan, settings, left=fewest_left(blank, rule, cut=cut), total=sum(map(len, blank.values())))
    if needs_texts and not texts and not scores:
        raise DataError(f"ranking {settings.ranking!r} looks at texts and got none; give triplets (--texts)")


def _check_says_how_much(plan: PruningPlan, settings: SlimSettings) -> None:
    if settings.width_cut is None and settings.max_params is None and not plan.width_cut:
        state = "its width is decided already" if plan.neurons else "the plan cuts no width"
        raise PlanError(f"{state}; say how much to cut: width_cut (--width-cut 30%) or max_params, or a plan that says it")


def decided(plan: PruningPlan, ranked: Ranked, settings: SlimSettings) -> PruningPlan:
    """Return the plan with the neurons that stay by these scores.

    Raises:
        PlanError: The scores do not allow what was asked for, or the plan's own limits are broken.
    """
    rule = _rule(settings)
    widths = _widths(plan, ranked.scores, settings, rule)
    total, left = sum(map(len, ranked.scores.values())), sum(widths.values())
    _check_left(plan, settings, left=left, total=total)
    _say_how_well(ranked.scores, asked=_asked(plan, ranked.scores, settings), cut=total - left)
    asked = {"width_cut": str(_share(plan, settings))} if settings.max_params is None else {"max_params": settings.max_params}
    used = ranked.identity["settings"]
    return full(plan).slimmed(
        choose_neurons(ranked.scores, widths),
        **asked,
        floor=str(settings.floor),
        multiple=settings.multiple,
        uniform=settings.uniform,
        of=total,
        cut=total - left,
        **{name: used[name] for name in ("ranking", "seed") if name in used},
        **({"steps": ranked.facts["steps"]} if "steps" in ranked.facts else {}),
        texts=ranked.identity["data"],
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


def _widths(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings, rule: WidthRule) -> dict[int, int]:
    asked = _asked(plan, scores, settings)
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


def _say_how_well(scores: NumpyScores, *, asked: int, cut: int) -> None:
    """Say what a reader should know about the cut."""
    if 2 * cut < asked:
        say(f"{cut} neurons go, under half of the {asked} that were asked for: the rules for the widths keep the others")
    worthless = sum(int(np.count_nonzero(values == 0)) for values in scores.values())
    if worthless > cut:
        say(
            f"{worthless} neurons score 0, more than the {cut} to cut: among them deeper layers go first, by rule and not "
            "by merit; lower learning_rate or steps, or cut more"
        )
