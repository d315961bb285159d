"""What each stage of a run calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prune2vec.errors import ConfigError, DataError, PlanError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.experiments.recipe import Evaluation, Mine, Recipe
from prune2vec.experiments.recipe_variant import KEEP_ALL, RecipeVariant
from prune2vec.experiments.report import ReportData, write_report
from prune2vec.experiments.trained_together import copies_of
from prune2vec.machine import release_memory
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from prune2vec.evaluation.evaluated import LoadedEncoder


class Stages:
    """The stages of a run. Each takes inputs and settings, and last the path that it must write, whole or not at all.

    A subclass can do some of them in another way.

    Attributes:
        evaluated: What was evaluated last, in memory until the next variant begins, so that what comes next need not load it again.
    """

    evaluated: LoadedEncoder | None = None

    def check(self, recipe: Recipe) -> None:
        """Refuse a model, texts or a teacher that cannot be found, before hours go into what comes before them."""
        from prune2vec.models.load import load_config
        from prune2vec.models.source import resolve_source
        from prune2vec.training.processes import check_one_gpu
        from prune2vec.training.sources import check_sources

        source = resolve_source(recipe.model, revision=recipe.revision)
        load_config(source, trust_remote_code=recipe.trust_remote_code)
        _check_texts(recipe)
        names = {variant.name for variant in recipe.variants}
        together = {variant.trained_with for variant in recipe.variants}
        for variant in recipe.variants:
            settings = variant.training(recipe.train)
            if settings is None:
                continue
            check_one_gpu(settings.device)
            untrained = settings.teacher == recipe.model and variant.name in copies_of(recipe)
            # The depths of those that are trained together come with their plans.
            if not untrained and variant.trained_with is None and variant.name not in together:
                settings.check_depths()
            if settings.teacher not in names:
                plain = bool(recipe.data.texts) and settings.learns_vectors
                check_sources(None if plain else recipe.data.train, recipe.data.texts if plain else None, settings)

    def mine(self, settings: Mine, output: Path) -> None:
        """Mine texts into a folder."""
        from prune2vec.data.mine import mine

        mine(settings.source, output, settings=settings.model_dump(exclude={"source"}))

    def profile(self, model: str, texts: Sequence[str], settings: ProfileSettings, output: Path) -> None:
        """Write ``profile.json``."""
        from prune2vec.profiling.measure import profile_model

        profile_model(model, list(texts), settings=settings, output=output)

    def plan(self, profile: Path, variant: RecipeVariant, texts: Sequence[str], output: Path) -> None:
        """Write a variant's ``plan.json``; its tokens are counted on ``texts``."""
        from prune2vec.planning.depth_rules import sized
        from prune2vec.planning.plan import PruningPlan
        from prune2vec.planning.planner import Budget, make_plan
        from prune2vec.profiling.profile import Profile

        method, parameters, budget = variant.method, variant.parameters, variant.budget
        measured = Profile.load(profile)
        if variant.size is not None:
            keys, limits = sized(measured, method, variant.size)
            parameters, budget = {**parameters, **keys}, Budget(**limits) if limits else None
            # A size of all layers leaves nothing to drop.
            if method == "drop" and limits.get("max_params") == measured.shape.params(range(measured.shape.num_layers)):
                method = KEEP_ALL
        if method == KEEP_ALL:
            method, parameters = "depth", {"depth": measured.shape.num_layers}
        vocabulary = None if variant.vocabulary is None else {"vocabulary": variant.vocabulary, "texts": tuple(texts)}
        try:
            made = make_plan(measured, method=method, budget=budget, vocabulary=vocabulary, **parameters)
        except (ConfigError, PlanError) as error:
            raise type(error)(f"variant {variant.name!r}: {error}") from error
        # Another profile that leads to the same plan, with one more scorer for example, is no reason to cut and train anew.
        before = None
        with suppress(DataError, PlanError):  # None is there, or one of an earlier release.
            before = PruningPlan.load(output)
        if before is None or replace(made, profile_digest=before.profile_digest) != before:
            made.save(output)

    def slim(self, model: str, plan: Path, texts: Sequence[str], settings: SlimSettings, output: Path) -> None:
        """Write ``slim-plan.json``, a plan with its width decided."""
        from prune2vec.training.slim import slim_plan

        # As in training: an unfinished run with other settings is out of date.
        slim_plan(model, plan, list(texts), output=output, settings=settings.model_copy(update={"restart": True}))

    def prune(self, model: str, plan: Path | int, settings: PruneSettings, output: Path) -> None:
        """Write the folder of a pruned model: one cut as a plan says, or an encoder cut to a number of layers."""
        from prune2vec.pruning.prune import prune_model

        prune_model(model, plan, output, settings=settings)

    def train(
        self, checkpoint: Path, texts: Sequence[str], settings: TrainSettings, output: Path, *, plain: bool = False
    ) -> None:
        """Write the folder of an encoder trained on triplets, or on ``plain`` texts."""
        from prune2vec.training.train import train_encoder

        data, plain_texts = (None, list(texts)) if plain else (list(texts), None)
        # An unfinished training with other settings is out of date by now; one with the same settings is resumed.
        train_encoder(checkpoint, data, output, texts=plain_texts, settings=settings.model_copy(update={"restart": True}))

    def evaluate(self, encoder: Path, evaluation: Evaluation, output: Path) -> None:
        """Write ``results.json``."""
        from prune2vec.evaluation.evaluate import evaluate_and_keep

        tasks, mirror, settings = evaluation.tasks or None, evaluation.mirror or None, evaluation.settings
        _, self.evaluated = evaluate_and_keep(
            encoder, data=evaluation.data, tasks=tasks, mirror=mirror, output=output, settings=settings
        )

    def answer(self, encoder: Path, texts: str, queries: Sequence[str], settings: EvaluateSettings, output: Path) -> None:
        """Write ``answers.json``."""
        from prune2vec.evaluation.evaluated import load_for_evaluation
        from prune2vec.experiments.answers import answer, read_documents, save_answers

        documents, loaded = read_documents(texts, settings.split), self.evaluated
        if loaded is None or loaded.folder != encoder:
            del loaded  # Both need not be in memory at once.
            self.let_go()
            loaded = load_for_evaluation(encoder, settings, stock=False)
        save_answers(answer(loaded, documents, queries, batch_size=settings.batch_size), output)

    def let_go(self) -> None:
        """Free the memory of what was evaluated last, and of what failed."""
        self.evaluated = None
        release_memory()

    def report(self, data: ReportData, folder: Path) -> None:
        """Write ``report.md``, ``report.html`` and pictures into the folder of the run."""
        write_report(data, folder)


def _check_texts(recipe: Recipe) -> None:
    """Read the first row of each of a recipe's texts; one that holds none is a ``DataError``."""
    from prune2vec.data.documents import read_documents
    from prune2vec.data.folders import check_held_out
    from prune2vec.data.plain_texts import check_filled
    from prune2vec.data.reader import read_triplets

    data, train, evaluate = recipe.data, recipe.train, recipe.evaluate
    # A folder of held-out texts may be one of queries and documents, and was looked for when the recipe was read.
    held_out = [data.dev, train.dev if train is not None else None, evaluate.data if evaluate is not None else None]
    profiled = data.profile or data.train
    with_negatives = {*profiled, *(data.train if train is not None and train.hard_negatives > 0 else ())}
    for one in held_out:
        if one:
            check_held_out(one, train=data.train, texts=data.texts)
    named = [str(one) for one in held_out if one and not Path(one).is_dir()]
    for texts in dict.fromkeys((*data.train, *data.profile, *named)):
        next(read_triplets(texts, require_negative=texts in with_negatives))
    for texts in data.texts:
        check_filled(texts)
    if evaluate is not None and evaluate.corpus is not None:
        next(read_documents(Path(evaluate.corpus)), None)
