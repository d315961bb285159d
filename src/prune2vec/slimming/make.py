"""``slim``: model, plan and texts in, a plan with its width decided out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import DataError, PlanError
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.progress import say
from prune2vec.records.plan import PruningPlan
from prune2vec.slimming.load import load_subject
from prune2vec.slimming.registry import rankings
from prune2vec.slimming.scores_file import Ranked, scores_beside
from prune2vec.slimming.settings import SlimSettings
from prune2vec.slimming.width import WidthRule, choose_neurons, choose_widths, count_of, smallest_cut
from prune2vec.texts import Triplet, digest_texts
from prune2vec.training.data import Data, read
from prune2vec.training.randomness import isolated_randomness
from prune2vec.training.workfolder import WorkFolder, differences

if TYPE_CHECKING:
    from transformers import TrainerCallback

NumpyScores = Mapping[int, NDArray[np.float32]]


def slim_plan(
    model: str,
    plan: PruningPlan | str | Path,
    texts: Data | None = None,
    *,
    output: Path | str,
    settings: SlimSettings | None = None,
    scores: Path | str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> PruningPlan:
    """Rank the neurons of what a plan keeps, and decide which of them stay.

    The scores are written beside the plan. The same call made again goes on after an interruption; scores that are there
    already, for the same model, texts and settings, are used again, so that another share costs nothing.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: A plan, or the path of one; neurons that it lists already are decided anew.
        texts: Triplets, or a file, a folder, a hub data set, or several; the ranking magnitude needs none.
        output: Where to write the new ``plan.json``.
        settings: How to rank and how much to cut.
        scores: A scores file to cut by, in place of ranking.
        callbacks: More callbacks for a ranking that trains, to watch it.
        **overrides: Single settings, over ``settings``.

    Returns:
        The plan with ``neurons``; its ``parameters["slim"]`` say how they were chosen.

    Raises:
        ConfigError: A setting is unknown or does not fit.
        DataError: Texts or scores cannot be read, or are too few.
        PlanError: How much to cut is not said or cannot be met, or plan, model and scores do not fit each other.
        TrainingError: A number is not finite, or an unfinished run at this output differs.
    """
    given = settings.model_dump(exclude_unset=True) if settings is not None else {}
    chosen = SlimSettings.build({**given, **overrides}, where="slim()")
    what = plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))
    target = Path(output).absolute()
    rule = WidthRule(floor=chosen.floor, multiple=chosen.multiple, uniform=chosen.uniform)
    _try_out(what, chosen, rule)
    ranked = _given(Path(scores), what) if scores is not None else _ranked(model, what, texts, target, chosen, callbacks)
    made = _decide(what, ranked, chosen, rule)
    if scores is None:
        ranked.save(scores_beside(target))
    made.save(target)
    WorkFolder.beside(target).remove()
    return made


def _full(plan: PruningPlan) -> PruningPlan:
    """Return the plan with all neurons of the MLPs that stay."""
    return replace(plan, width_cut=Fraction(0), neurons={})


def _try_out(plan: PruningPlan, settings: SlimSettings, rule: WidthRule) -> None:
    """Refuse before the long work starts what could not be cut by any scores."""
    rankings.get(settings.ranking)
    if settings.width_cut is None and settings.max_params is None and not plan.width_cut:
        state = "its width is decided already" if plan.neurons else "the plan cuts no width"
        raise PlanError(f"{state}; say how much to cut: width_cut (--width-cut 30%) or max_params, or a plan that says it")
    plan.shape.check_can_drop(replace(plan.kept, width_cut=Fraction(1, 2)))
    blank = {layer: np.zeros(plan.shape.mlp_width[layer], dtype=np.float32) for layer in plan.kept.mlps}
    _widths(plan, blank, settings, rule)


def _widths(plan: PruningPlan, scores: NumpyScores, settings: SlimSettings, rule: WidthRule) -> dict[int, int]:
    if settings.max_params is None:
        share = plan.width_cut if settings.width_cut is None else settings.width_cut
        return choose_widths(scores, rule, cut=count_of(share, scores))
    full = _full(plan).kept
    over = plan.shape.params(full) - settings.max_params
    # Rounded up: a neuron too many, rather than a parameter.
    at_least = max(0, -(-over // plan.shape.neuron_params[full.mlps[0]]))
    return choose_widths(scores, rule, cut=smallest_cut(scores, rule, at_least=at_least))


def _decide(plan: PruningPlan, ranked: Ranked, settings: SlimSettings, rule: WidthRule) -> PruningPlan:
    widths = _widths(plan, ranked.scores, settings, rule)
    total, left = sum(map(len, ranked.scores.values())), sum(widths.values())
    worthless = sum(int(np.count_nonzero(values == 0)) for values in ranked.scores.values())
    if worthless > total - left:
        say(
            f"{worthless} neurons score 0, more than the {total - left} to cut: among them deeper layers go first, by rule and not "
            "by merit; lower learning_rate or steps, or cut more"
        )
    share = plan.width_cut if settings.width_cut is None else settings.width_cut
    asked = {"width_cut": str(share)} if settings.max_params is None else {"max_params": settings.max_params}
    used = ranked.identity["settings"]
    return _full(plan).slimmed(
        choose_neurons(ranked.scores, widths),
        **asked,
        floor=str(settings.floor),
        multiple=settings.multiple,
        uniform=settings.uniform,
        of=total,
        cut=total - left,
        **{name: used[name] for name in ("ranking", "seed")},
        **({"steps": ranked.facts["steps"]} if "steps" in ranked.facts else {}),
        texts=ranked.identity["data"],
    )


def _ranked(
    model: str,
    plan: PruningPlan,
    texts: Data | None,
    output: Path,
    settings: SlimSettings,
    callbacks: Sequence[TrainerCallback],
) -> Ranked:
    triplets = read(texts, hard_negatives=settings.hard_negatives) if texts is not None else []
    identity = _identity(plan, triplets, settings)
    file = scores_beside(output)
    found = _saved(file)
    if found is not None and found.identity == identity:
        say(f"{file.name} holds the scores of this model, these texts and settings; nothing is ranked again")
        return found
    with isolated_randomness(settings.seed):
        subject = load_subject(model, _full(plan), settings, identity=identity, output=output, callbacks=callbacks)
        scores = {layer: score.numpy() for layer, score in rankings.get(settings.ranking)(subject, triplets, settings).items()}
    _check(scores, plan, by=f"ranking {settings.ranking!r}")
    return Ranked(scores=scores, identity=identity, facts=subject.notes)


def _saved(file: Path) -> Ranked | None:
    try:
        return Ranked.load(file) if file.exists() else None
    except DataError:
        return None


def _given(file: Path, plan: PruningPlan) -> Ranked:
    ranked = Ranked.load(file)
    changed = differences(_about(plan), {key: ranked.identity.get(key) for key in _about(plan)})
    if changed:
        raise PlanError(f"{file}: these scores are for something else than the plan keeps ({changed}); rank again with texts")
    _check(ranked.scores, plan, by=str(file))
    return ranked


def _check(scores: NumpyScores, plan: PruningPlan, *, by: str) -> None:
    wanted = {layer: (plan.shape.mlp_width[layer],) for layer in plan.kept.mlps}
    found = {layer: values.shape for layer, values in scores.items()}
    if found != wanted:
        raise PlanError(f"{by}: scores of shape {found}, expected {wanted}")


def _about(plan: PruningPlan) -> dict[str, Any]:
    return {
        "model": plan.model.get("fingerprint"),
        "keep_layers": list(plan.keep_layers),
        "drop_attention": list(plan.drop_attention),
        "drop_mlp": list(plan.drop_mlp),
    }


def _identity(plan: PruningPlan, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[str, Any]:
    device = pick_device(settings.device)
    return {
        **_about(plan),
        "settings": settings.identity(),
        "dtype": str(pick_dtype(settings.dtype, device)).removeprefix("torch."),
        "device": device.type,
        "data": digest_texts(triplets) if triplets else None,
    }
