"""``slim``: model, plan and texts in, a plan with its width decided out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prune2vec.data.instructions import Instructions
from prune2vec.data.reader import Texts, load_triplets
from prune2vec.data.triplet import Triplet, digest_texts
from prune2vec.errors import DataError, PlanError
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.text_settings import SAVED, PromptTemplate
from prune2vec.outputs import clear_partials, locked
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.public import public
from prune2vec.resume import WorkFolder, differences
from prune2vec.training.fit import isolated_randomness
from prune2vec.training.importance_context import ImportanceContext, batches, evaluating, load_context
from prune2vec.training.importances.learnt_gates import Gates
from prune2vec.training.neuron_importance import TEXTS, importances
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.training_data import Prompting, training_data
from prune2vec.training.width_decision import NeuronScores, NumpyScores, check_slim, decided, full, scores_beside

if TYPE_CHECKING:
    from transformers import TrainerCallback

# Two losses of the same batches are compared, so few tell a cut that breaks the model from one that does not.
_LOSS_BATCHES = 5


@public("slim", "model", "plan", "texts", "output", "scores", settings=SlimSettings)
def slim_plan(
    model: str | Path,
    plan: PruningPlan | str | Path,
    texts: Texts | None = None,
    *,
    output: Path | str,
    settings: SlimSettings | Mapping[str, Any] | None = None,
    scores: Path | str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **overrides: Any,
) -> PruningPlan:
    """Score the neurons of what a plan keeps, and return the plan with those that stay; ``parameters["slim"]`` says why.

    The scores are written beside the plan. The same call made again resumes after an interruption; scores that are there
    already, for the same model, texts and settings, are used again, so that another share costs nothing.

    Args:
        model: Hub id, folder, GGUF file or ``smollm2``: the model the plan was made for.
        plan: A plan, or the path of one; neurons that it lists already are decided anew.
        texts: Triplets, or a file, a folder, a hub data set, or several; an importance by weights alone looks at none.
        output: Where to write the new ``plan.json``.
        settings: How to score and how much to cut.
        scores: A scores file to cut by, in place of measuring.
        callbacks: More callbacks for an importance that trains, to watch it.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or another call writes the output.
        DataError: Texts or scores cannot be read, or are too few.
        ModelError: The model cannot be found or understood.
        PlanError: How much to cut is not said or cannot be met, or plan, model and scores do not fit each other.
        TrainingError: A number is not finite, or an unfinished run at this output differs.
    """
    chosen = SlimSettings.chosen(settings, overrides, where="slim()")
    given = (plan if isinstance(plan, PruningPlan) else PruningPlan.load(Path(plan))).with_text(chosen)
    chosen = chosen.model_copy(update={"max_length": given.text.max_length})
    target = PruningPlan.target(output).absolute()
    check_slim(given, chosen, texts=texts is not None, scores=scores is not None)
    found = NeuronScores.load(Path(scores)) if scores is not None else None
    if found is not None:
        about = _about(given)
        changed = differences(about, {key: found.identity.get(key) for key in about})
        if changed:
            raise PlanError(
                f"{scores}: these scores are for something else than the plan keeps ({changed}); score again with texts"
            )
        _check_shapes(found.scores, given, by=str(scores))
    with locked(target):
        made = (
            decided(given, found, chosen)
            if found is not None
            else _slimmed(str(model), given, texts, target, chosen, callbacks)
        )
        made.save(target)
    return made


def _slimmed(
    model: str,
    plan: PruningPlan,
    texts: Texts | None,
    target: Path,
    chosen: SlimSettings,
    callbacks: Sequence[TrainerCallback],
) -> PruningPlan:
    looks_at_texts = TEXTS in importances.reads(chosen.importance)
    triplets: list[Triplet] = []
    if texts is not None and looks_at_texts:
        triplets = load_triplets(texts, require_negative=chosen.hard_negatives > 0)
    device = pick_device(chosen.device)
    how = chosen.for_training()
    identity = {
        **_about(plan),
        "settings": importances.identity(chosen),
        "text": plan.text.model_dump(mode="json") if triplets else None,
        "dtype": str(pick_dtype(chosen.dtype, device)).removeprefix("torch."),
        "device": device.type,
        "data": digest_texts(triplets) if triplets else None,
    }
    file = scores_beside(target, chosen.importance)
    clear_partials(file)
    found: NeuronScores | None = None
    context: ImportanceContext | None = None
    try:
        found = NeuronScores.load(file) if file.exists() else None
    except DataError as error:
        say(f"{error}; the neurons are scored again")
    if found is not None and found.identity == identity:
        say(f"{file.name} holds the scores of this model, these texts and settings; nothing is measured again")
    else:
        if looks_at_texts:
            # Triplets that give no batch are refused before a model is loaded. What stands around every text alike tells no
            # two rows apart.
            text = plan.text
            asked = None if text.instruction == SAVED else Instructions.parse(text.instruction, symmetric=text.symmetric)
            training_data(triplets, Prompting(instructions=asked, text_format=PromptTemplate(), saved=("", "")), how)
        with isolated_randomness(chosen.seed):
            context = load_context(model, full(plan), chosen, identity=identity, output=target, callbacks=callbacks)
            measured = importances.get(chosen.importance)(context, triplets, chosen)
        comparable = importances.comparable(chosen.importance, measured)
        scores = {layer: score.numpy() for layer, score in comparable.items()}
        _check_shapes(scores, plan, by=f"importance {chosen.importance!r}")
        # Before anything is decided: scores that were dear must outlive widths that do not fit.
        found = NeuronScores(scores=scores, identity=identity, facts=context.notes)
        found.save(file)
    WorkFolder.beside(target).remove_if(found.identity)
    made = decided(plan, found, chosen)
    if context is not None and triplets:
        say_loss(context, triplets, chosen, made.neurons)
    return made


def _check_shapes(scores: NumpyScores, plan: PruningPlan, *, by: str) -> None:
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


def say_loss(
    context: ImportanceContext, triplets: Sequence[Triplet], settings: SlimSettings, neurons: Mapping[int, Sequence[int]]
) -> tuple[float, float]:
    """Say, and return, the mean contrastive loss on some batches with all neurons and with those that stay, untrained.

    ``neurons`` are those that stay, by layer; layers that keep all are left out.
    """
    few = settings.model_copy(update={"batches": min(settings.batches, _LOSS_BATCHES)})
    gates = Gates(context)
    gates.install(context.encoder)
    loss = build_loss(context.encoder, settings.for_training())
    before: list[float] = []
    after: list[float] = []
    try:
        with torch.no_grad(), pooled_in_fp32(context.encoder), evaluating(context):
            for columns in batches(context, triplets, few):
                for stay, losses in (({}, before), (neurons, after)):
                    for layer, gate in gates.values.items():
                        gate.fill_(0.0 if layer in stay else 1.0)
                        if layer in stay:
                            gate[torch.tensor(stay[layer], device=gate.device)] = 1.0
                    losses.append(float(loss([dict(one) for one in columns], torch.empty(0))))
    finally:
        gates.remove()
    found = sum(before) / len(before), sum(after) / len(after)
    say(f"loss on {len(before)} batches, untrained: {found[0]:.4f} with all neurons, {found[1]:.4f} without those that go")
    return found
