"""The stages of a run, and a record of what does each: these by default, small ones of their own in tests."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec

from prune2vec.errors import ConfigError, DataError, PlanError
from prune2vec.experiments.recipe import Evaluation, Mine, Recipe
from prune2vec.experiments.recipe_variant import KEEP_ALL, RecipeVariant
from prune2vec.experiments.report import ReportData, write_report
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings

P = ParamSpec("P")


def _freed(stage: Callable[P, None]) -> Callable[P, None]:
    """Return ``stage`` with its memory given back at the end: the next one loads a model of its own."""

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        stage(*args, **kwargs)
        gc.collect()

    return run


def check_inputs(recipe: Recipe) -> None:
    """Refuse a model, texts or a teacher that cannot be found, before hours go into what comes before them."""
    from prune2vec.data.documents import read_documents
    from prune2vec.data.reader import read_triplets
    from prune2vec.models.load import load_config
    from prune2vec.models.source import resolve_source
    from prune2vec.pruning.encoder import check_is_encoder

    source = resolve_source(recipe.model, revision=recipe.revision)
    load_config(source, trust_remote_code=recipe.trust_remote_code)
    test = recipe.evaluate.data if recipe.evaluate is not None else None
    dev = recipe.train.dev if recipe.train is not None else None
    # A folder of held-out texts may be one of queries and documents, and was looked for when the recipe was read.
    held_out = [str(one) for one in (recipe.data.dev, test, dev) if one and not Path(one).is_dir()]
    negatives = recipe.train is not None and recipe.train.hard_negatives > 0
    profiled = recipe.data.profile or recipe.data.train
    for texts in dict.fromkeys((*recipe.data.train, *recipe.data.profile, *held_out)):
        needed = texts in profiled or (negatives and texts in recipe.data.train)
        if next(read_triplets(texts, require_negative=needed), None) is None:
            raise DataError(f"{texts} holds no triplets")
    if recipe.evaluate is not None and recipe.evaluate.corpus is not None:
        next(read_documents(Path(recipe.evaluate.corpus)), None)
    teacher = recipe.train.distil_from if recipe.train is not None else None
    if teacher is not None and str(teacher) not in {variant.name for variant in recipe.variants}:
        check_is_encoder(teacher)


def mine_texts(settings: Mine, output: Path) -> None:
    """Mine the texts of a recipe."""
    from prune2vec.data.mine import mine

    mine(**settings.model_dump(exclude={"source"}), source=settings.source, output=output)


@_freed
def measure(model: str, texts: Sequence[str], settings: ProfileSettings, output: Path) -> None:
    """Profile a model."""
    from prune2vec.profiling.measure import profile_model

    profile_model(model, list(texts), settings=settings, output=output)


def choose(profile: Path, variant: RecipeVariant, output: Path) -> None:
    """Make a variant's plan."""
    from prune2vec.planning.planner import make_plan
    from prune2vec.profiling.profile import Profile

    if variant.method == KEEP_ALL:
        make_plan(profile, method="depth", depth=Profile.load(profile).shape.num_layers, output=output)
        return
    try:
        make_plan(profile, method=variant.method, budget=variant.budget, output=output, **variant.parameters)
    except (ConfigError, PlanError) as error:
        raise type(error)(f"variant {variant.name!r}: {error}") from error


@_freed
def choose_neurons(model: str, plan: Path, texts: Sequence[str], settings: SlimSettings, output: Path) -> None:
    """Decide the width of a plan."""
    from prune2vec.training.slim import slim_plan

    # As in training: an unfinished run with other settings is out of date.
    settings = settings.model_copy(update={"restart": True})
    slim_plan(model, plan, list(texts), output=output, settings=settings)


@_freed
def cut(model: str, plan: Path, settings: PruneSettings, output: Path) -> None:
    """Cut a model as a plan says."""
    from prune2vec.pruning.prune import prune_model

    prune_model(model, plan, output, settings=settings)


@_freed
def train_variant(checkpoint: Path, texts: Sequence[str], settings: TrainSettings, output: Path) -> None:
    """Train an encoder."""
    from prune2vec.training.train import train_encoder

    # An unfinished training with other settings is out of date by now; one with the same settings is resumed.
    settings = settings.model_copy(update={"restart": True})
    train_encoder(checkpoint, list(texts), output, settings=settings)


@_freed
def evaluate_variant(encoder: Path, evaluation: Evaluation, output: Path) -> None:
    """Evaluate an encoder."""
    from prune2vec.evaluation.evaluate import evaluate_encoder

    tasks = list(evaluation.tasks) or None
    mirror = Path(evaluation.mirror) if evaluation.mirror else None
    settings = evaluation.settings()
    evaluate_encoder(encoder, data=evaluation.data, tasks=tasks, mirror=mirror, output=output, settings=settings)


@_freed
def answer_queries(encoder: Path, texts: str, queries: Sequence[str], output: Path) -> None:
    """Answer the example queries of a recipe."""
    from prune2vec.experiments.answers import answer, read_documents, save_answers

    save_answers(answer(encoder, read_documents(texts), queries), output)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """What a run calls. Every callable takes its inputs and settings, and last the path it must write, whole or not at all.

    Attributes:
        check: Looks for all that the recipe names, before the first stage.
        mine: Settings -> folder of texts.
        profile: Model, texts, settings -> ``profile.json``.
        plan: Profile, variant -> ``plan.json``.
        slim: Model, plan, texts, settings -> ``slim-plan.json``.
        prune: Model, plan, settings -> checkpoint folder.
        train: Checkpoint, texts, settings -> encoder folder.
        evaluate: Encoder, evaluation -> ``results.json``.
        answer: Encoder, texts to search, queries -> ``answers.json``.
        report: What happened -> ``report.md``, ``report.html`` and pictures in the folder of the run.
    """

    check: Callable[[Recipe], object] = check_inputs
    mine: Callable[[Mine, Path], object] = mine_texts
    profile: Callable[[str, Sequence[str], ProfileSettings, Path], object] = measure
    plan: Callable[[Path, RecipeVariant, Path], object] = choose
    slim: Callable[[str, Path, Sequence[str], SlimSettings, Path], object] = choose_neurons
    prune: Callable[[str, Path, PruneSettings, Path], object] = cut
    train: Callable[[Path, Sequence[str], TrainSettings, Path], object] = train_variant
    evaluate: Callable[[Path, Evaluation, Path], object] = evaluate_variant
    answer: Callable[[Path, str, Sequence[str], Path], object] = answer_queries
    report: Callable[[ReportData, Path], object] = write_report
