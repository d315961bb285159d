"""``slim``: model, plan and texts in, a plan with its width decided out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune2vec.data.triplet import Triplet, digest_texts
from prune2vec.errors import DataError, PlanError
from prune2vec.files import read_json
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.outputs import clear_partials, locked
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.public import public
from prune2vec.training.calibration import check_rows
from prune2vec.training.neuron_importance import TEXTS, importances
from prune2vec.training.randomness import isolated_randomness
from prune2vec.training.ranking_context import RankingContext, load_subject
from prune2vec.training.scores_file import Ranked, scores_beside
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import Data, read
from prune2vec.training.width_cost import say_loss
from prune2vec.training.width_decision import NumpyScores, check_slim, decided, full
from prune2vec.training.work_folder import IDENTITY_FILE, WorkFolder, differences

if TYPE_CHECKING:
    from transformers import TrainerCallback


@public("slim", "model", "plan", "texts", "output", "scores", settings=SlimSettings)
def slim_plan(
    model: str | Path,
    plan: PruningPlan | str | Path,
    texts: Data | None = None,
    *,
    output: Path | str,
    settings: SlimSettings | Mapping[str, Any] | None = None,
    scores: Path | str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> PruningPlan:
    """Rank the neurons of what a plan keeps, and return the plan with those that stay; ``parameters["slim"]`` says why.

    The scores are written beside the plan. The same call made again goes on after an interruption; scores that are there
    already, for the same model, texts and settings, are used again, so that another share costs nothing.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: A plan, or the path of one; neurons that it lists already are decided anew.
        texts: Triplets, or a file, a folder, a hub data set, or several; a ranking by weights alone looks at none.
        output: Where to write the new ``plan.json``.
        settings: How to rank and how much to cut.
        scores: A scores file to cut by, in place of ranking.
        callbacks: More callbacks for a ranking that trains, to watch it.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or another call writes the output.
        DataError: Texts or scores cannot be read, or are too few.
        PlanError: How much to cut is not said or cannot be met, or plan, model and scores do not fit each other.
        TrainingError: A number is not finite, or an unfinished run at this output differs.
    """
    chosen = SlimSettings.chosen(settings, overrides, where="slim()")
    what = (plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))).with_text(chosen)
    chosen = chosen.model_copy(update={"max_length": what.text.max_length})
    target = Path(output).absolute()
    check_slim(what, chosen, texts=texts is not None, scores=scores is not None)
    if scores is not None:
        made = decided(what, _given(Path(scores), what), chosen)
        with locked(target):
            made.save(target)
        return made
    with locked(target):
        made = _slimmed(str(model), what, texts, target, chosen, callbacks)
        made.save(target)
    return made


def _slimmed(
    model: str,
    what: PruningPlan,
    texts: Data | None,
    target: Path,
    chosen: SlimSettings,
    callbacks: Sequence[TrainerCallback],
) -> PruningPlan:
    looks_at_texts = TEXTS in importances.reads(chosen.ranking)
    triplets = read(texts, hard_negatives=chosen.hard_negatives) if texts is not None and looks_at_texts else []
    identity = _identity(what, triplets, chosen)
    file = scores_beside(target, chosen.ranking)
    clear_partials(file)
    ranked = _saved(file, identity)
    subject = None
    if ranked is None:
        if looks_at_texts:
            check_rows(triplets, what.text, chosen)
        with isolated_randomness(chosen.seed):
            subject = load_subject(model, full(what), chosen, identity=identity, output=target, callbacks=callbacks)
            ranked = _rank(subject, what, triplets, chosen)
        # Before anything is decided: scores that were dear must outlive widths that do not fit.
        ranked.save(file)
    _remove_work(WorkFolder.beside(target), ranked.identity)
    made = decided(what, ranked, chosen)
    if subject is not None and triplets:
        say_loss(subject, triplets, chosen, made.neurons)
    return made


def _remove_work(work: WorkFolder, identity: Mapping[str, Any]) -> None:
    """Remove the checkpoints of the run that has ended; those of another one can still be gone on with."""
    record = work.folder / IDENTITY_FILE
    if record.exists() and not differences(read_json(record), identity):
        work.remove()


def _rank(subject: RankingContext, plan: PruningPlan, triplets: Sequence[Triplet], settings: SlimSettings) -> Ranked:
    found = importances.get(settings.ranking)(subject, triplets, settings)
    scores = {layer: score.numpy() for layer, score in importances.comparable(settings.ranking, found).items()}
    _check(scores, plan, by=f"ranking {settings.ranking!r}")
    return Ranked(scores=scores, identity=subject.identity, facts=subject.notes)


def _saved(file: Path, identity: Mapping[str, Any]) -> Ranked | None:
    """Return the scores in a file if they are of this model, these texts and settings."""
    try:
        found = Ranked.load(file) if file.exists() else None
    except DataError as error:
        say(f"{error}; the neurons are ranked again")
        return None
    if found is None or found.identity != identity:
        return None
    say(f"{file.name} holds the scores of this model, these texts and settings; nothing is ranked again")
    return found


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
        "text": plan.text.to_json() if triplets else None,
        "dtype": str(pick_dtype(settings.dtype, device)).removeprefix("torch."),
        "device": device.type,
        "data": digest_texts(triplets) if triplets else None,
    }
