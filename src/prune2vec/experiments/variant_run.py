"""What the stages of a run read, write and depend on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from prune2vec.errors import ConfigError, PlanError, reason_of
from prune2vec.experiments.recipe import DOCSTRINGS, Evaluation, Recipe
from prune2vec.experiments.recipe_variant import RecipeVariant
from prune2vec.experiments.stage_runner import (
    ANSWERS,
    CHECKPOINT,
    DATA,
    ENCODER,
    MANIFEST,
    PLAN,
    PROFILE,
    RECIPE,
    RESULTS,
    SLIM_PLAN,
    TEACHER_VECTORS,
    SourceDigests,
    StageRunner,
    installed_packages,
)
from prune2vec.experiments.stages import Stages
from prune2vec.experiments.trained_together import copies_of, cut_depths, same_cuts, with_partners
from prune2vec.files import digest_json, write_bytes, write_text
from prune2vec.outputs import OwnFolder, remove_folder
from prune2vec.planning.plan import PruningPlan
from prune2vec.progress import say
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.resume import WorkFolder
from prune2vec.training.neuron_importance import importances
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import WITHOUT_TEACHER, TrainSettings
from prune2vec.training.width_decision import scores_beside

_TRAIN, _DEV, _CORPUS = "train.jsonl.gz", "dev.jsonl.gz", "corpus.jsonl.gz"

S = TypeVar("S", PruneSettings, SlimSettings)


class VariantRun:
    """The stages of one recipe in one folder.

    Attributes:
        runner: Does the stages, and has their records.
        sources: Digests of what was read.
        plans: Plan of each variant, its width decided; in a dry run only those that are there and stay.
        same_cut_as: Variants that keep the same of the model as an earlier one and are trained alike, and which.
        errors: What stopped each variant that could not be finished, where the others go on.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        stages: Stages,
        own: OwnFolder | None,
        *,
        only: Collection[str] | None = None,
        go_on: bool = False,
    ) -> None:
        """Prepare a run of those in ``only`` (None: all) and of their partners; with ``go_on`` one that fails does not stop the others."""
        self.recipe = recipe
        self.folder = folder
        self.runner = StageRunner(folder, own, before=self._begin)
        self.sources = SourceDigests()
        self.plans: dict[str, PruningPlan] = {}
        self.same_cut_as: dict[str, str] = {}
        self.stages = stages
        self.errors: dict[str, str] = {}
        self._variants: dict[str, RecipeVariant] = {variant.name: variant for variant in recipe.variants}
        self._chosen = with_partners(recipe, self._variants if only is None else only)
        # What is only trained with them is not evaluated for them.
        together = {name for one in recipe.variants if one.trained_with is not None for name in (one.name, one.trained_with)}
        self._asked = {one.name for one in self._chosen if only is None or one.name in only or one.name not in together}
        self._go_on = go_on
        self._encoders: dict[str, str | None] = {}
        self._scores_of: dict[str, Path] = {}

    def do(self) -> None:
        """Do every stage that is not done, or, in a dry run, find out which would be."""
        self._mine()
        profile = self._profile()
        plans: dict[str, str | None] = {}
        for variant in self._chosen:
            with self._failing_alone(variant.name):
                plans[variant.name] = self._slim(variant, self._plan(variant, profile))
        self.same_cut_as |= same_cuts(self.recipe, self.plans, self._training)
        self._asked |= {other for name, other in self.same_cut_as.items() if name in self._asked}
        for name, digest in plans.items():
            self.stages.let_go()
            with self._failing_alone(name):
                self._make(name, digest)
        self._answer()
        self.stages.let_go()

    def _make(self, name: str, plan: str | None) -> None:
        """Prune, train and evaluate one variant, or take over the one that keeps the same."""
        if (twin := self.same_cut_as.get(name)) is not None:
            if twin in self.errors:
                raise PlanError(f"it keeps the same as {twin}, which failed")
            self._reuse(name, twin)
            return
        trainer = self._variants[name].trained_with
        if trainer in self.errors:
            raise PlanError(f"it is trained with {trainer}, which failed")
        if trainer is not None:
            encoder = self._cut(name, self.same_cut_as.get(trainer, trainer))
        else:
            encoder = self._prune(name, plan)
            training = self._training(name)
            if training is not None:
                encoder = self._train(name, encoder, training)
        self._encoders[name] = encoder
        if self.recipe.evaluate is not None and name in self._asked:
            self._evaluate(name, encoder, self.recipe.evaluate)

    @property
    def compared(self) -> dict[str, PruningPlan]:
        """The plans of the variants that are evaluated: those asked for, their teachers, and what they are copies of."""
        return {name: plan for name, plan in self.plans.items() if name in self._asked}

    @contextmanager
    def _failing_alone(self, name: str) -> Iterator[None]:
        """Note what stops a variant, and let the others go on, where that is wanted."""
        try:
            yield
        except Exception as error:
            # Whatever it is, out of memory for example, other variants may do without.
            if not self._go_on:
                raise
            self.errors[name] = reason_of(error)
            self.plans.pop(name, None)
            say(f"{name} failed, the others go on: {self.errors[name]}")

    def _begin(self) -> None:
        """Look for all that the recipe names, and only then begin to write."""
        self.stages.check(self.recipe)
        if self.runner.own is not None:
            # What was done by an earlier recipe is no longer what this folder is.
            self.runner.own.remove(MANIFEST)
            with self.runner.own.writing(RECIPE):
                write_text(self.folder / RECIPE, self.recipe.to_yaml())

    def encoder_folder(self, name: str) -> Path:
        """Return the folder of a variant's finished encoder."""
        name = self.same_cut_as.get(name, name)
        return self.folder / name / (ENCODER if self._training(name) is not None else CHECKPOINT)

    def teacher_of(self, name: str) -> str | None:
        """Return the variant that is, or is a copy of, the teacher of another one; None where none is."""
        training = self._training(self.same_cut_as.get(name, name))
        if training is None or training.teacher is None:
            return None
        if training.teacher == self.recipe.model:
            return next((copy for copy in copies_of(self.recipe) if self._training(copy) is None), None)
        return training.teacher if training.teacher in self._variants else None

    def _training(self, name: str) -> TrainSettings | None:
        """Return how a variant is trained; None where it is not.

        A teacher, and a variant with its layers, has no teacher itself: it learns from the triplets, if there are any. A copy
        of the model is not trained to be the model, unless others are trained with it.
        """
        variant = self._variants[name]
        if variant.trained_with is not None:
            return self._training(variant.trained_with)
        settings = variant.training(self.recipe.train)
        depths = cut_depths(self.recipe, self.plans, name)
        if settings is None or (name in copies_of(self.recipe) and settings.teacher == self.recipe.model and not depths):
            return None
        if depths:
            settings = TrainSettings.chosen(
                settings, {"depths": sorted({*settings.depths, *depths})}, where=f"variant {name!r}: train"
            )
        if settings.teacher != name:
            return settings
        alone = settings.model_copy(update=WITHOUT_TEACHER)
        return alone if self._texts(_TRAIN) else None

    def smallest(self) -> str | None:
        """Return the first variant with the fewest parameters; None while a plan is missing."""
        if len(self.plans) + len(self.errors) < len(self._chosen) or not self.plans:
            return None
        return min(self.plans, key=lambda name: self.plans[name].shape.params(self.plans[name].kept))

    def _mine(self) -> None:
        settings = self.recipe.data.mine
        if settings is None:
            return
        found = installed_packages() if settings.source == DOCSTRINGS else self.sources[settings.source]
        inputs = {"settings": settings.model_dump(mode="json"), "source": found}
        self.runner.do("mine", lambda path: self.stages.mine(settings, path), output=DATA, inputs=inputs)
        # What follows depends on the texts alone, not on whatever else was written down beside them.
        record = self.runner.records.get("mine")
        for name in (_TRAIN, _DEV, _CORPUS):
            digest = digest_json(record.output.get(name, "none")) if record is not None else None
            self.sources[str(self.folder / DATA / name)] = digest

    def _texts(self, mined: str) -> list[str]:
        """Return the texts to train on, or those held out: mined ones, or the recipe's own."""
        data = self.recipe.data
        if data.mine is not None:
            return [str(self.folder / DATA / mined)]
        return list(data.train if mined == _TRAIN else filter(None, [data.dev]))

    def _profile(self) -> str | None:
        model, settings = self.recipe.model, self.recipe.of_model(self.recipe.profile)
        texts = list(self.recipe.data.profile) or self._texts(_TRAIN)
        return self.runner.do(
            "profile",
            lambda path: self.stages.profile(model, texts, settings, path),
            output=PROFILE,
            inputs={
                "model": self.sources[self.recipe.model],
                "texts": self.sources.together(texts),
                "plain": self.sources[str(settings.plain)] if settings.plain is not None else "none",
                "settings": settings.model_dump(mode="json"),
            },
        )

    def _plan(self, variant: RecipeVariant, profile: str | None) -> str | None:
        output, texts = f"{variant.name}/{PLAN}", self._texts(_TRAIN) or list(self.recipe.data.texts)
        # Of a variant that keeps all tokens no text counts, and nothing is said that earlier releases did not say.
        unset = [key for key in ("vocabulary", "size") if getattr(variant, key) is None]
        about = variant.model_dump(mode="json", exclude={"slim", "trained_with", "attention", *unset})
        counted = {} if variant.vocabulary is None else {"texts": self.sources.together(texts)}
        plan = self.runner.do(
            f"{variant.name}.plan",
            lambda path: self.stages.plan(self.folder / PROFILE, variant, texts, path),
            output=output,
            inputs={"profile": profile, "variant": about, **counted},
        )
        if plan is not None:
            self.plans[variant.name] = PruningPlan.load(self.folder / output)
        return plan

    def _slim(self, variant: RecipeVariant, plan: str | None) -> str | None:
        """Decide the width of a variant's plan, if it is to be cut; return the digest of its final plan."""
        name, depth_plan = variant.name, self.plans.get(variant.name)
        if variant.slim is None and (depth_plan is None or not depth_plan.width_cut):
            # A slimmed plan of an earlier recipe must not be taken for the variant's plan.
            if self.runner.own is not None:
                slimmed = self.folder / name / SLIM_PLAN
                self.runner.own.remove(f"{name}/{SLIM_PLAN}")
                for leftover in slimmed.parent.glob(scores_beside(slimmed, "*").name):
                    leftover.unlink()
                WorkFolder.beside(slimmed).remove()
            return plan
        model, texts, depth_file = self.recipe.model, self._texts(_TRAIN), self.folder / name / PLAN
        settings = self._at_commit(name, self.recipe.of_model(variant.slim_settings(self.recipe.train)))
        # Another interval between checkpoints, or another device, is no reason to rank again.
        cut = settings.model_dump(mode="json", include={"width_cut", "max_params", "floor", "multiple", "uniform"})
        scores = scores_beside(self.folder / name / SLIM_PLAN, settings.importance)
        # Neurons of plans that are the same in these score the same on the same texts.
        kept = depth_plan and [depth_plan.keep_layers, depth_plan.drop_attention, depth_plan.drop_mlp]
        ranking = digest_json([kept, importances.identity(settings)])

        def slim(path: Path) -> None:
            # Scores of an earlier variant that keeps the same before its width is cut are not learnt twice; the stage itself
            # looks whether they are for these texts.
            found = self._scores_of.get(ranking)
            if found is not None and found.exists():
                write_bytes(scores, found.read_bytes())
            self.stages.slim(model, depth_file, texts, settings, path)

        final = self.runner.do(
            f"{name}.slim",
            slim,
            output=f"{name}/{SLIM_PLAN}",
            inputs={
                "model": self.sources[self.recipe.model],
                "plan": plan,
                "texts": self.sources.together(texts),
                "settings": {**importances.identity(settings), **cut},
            },
        )
        self.plans.pop(name, None)
        if final is not None:
            self._scores_of.setdefault(ranking, scores)
            self.plans[name] = PruningPlan.load(self.folder / name / SLIM_PLAN)
        return final

    def _reuse(self, name: str, other: str) -> None:
        self.runner.reuse(name, other, stages=("prune", "train", "evaluate"))
        self._encoders[name] = self._encoders[other]
        if self.runner.own is None:
            return
        for leftover in (CHECKPOINT, ENCODER):
            remove_folder(self.folder / name / leftover)
        WorkFolder.beside(self.folder / name / ENCODER).remove()

    def _prune(self, name: str, plan: str | None) -> str | None:
        shared = self.recipe.prune
        attention = self._variants[name].attention or shared.attention
        settings = self._at_commit(name, self.recipe.of_model(shared.model_copy(update={"attention": attention})))
        depth_file, slimmed = self.folder / name / PLAN, self.folder / name / SLIM_PLAN
        return self.runner.do(
            f"{name}.prune",
            lambda path: self.stages.prune(self.recipe.model, slimmed if slimmed.exists() else depth_file, settings, path),
            output=f"{name}/{CHECKPOINT}",
            inputs={"model": self.sources[self.recipe.model], "plan": plan, "settings": settings.model_dump(mode="json")},
        )

    def _cut(self, name: str, trainer: str) -> str | None:
        """Take a variant out of the encoder that it was trained with."""
        depth = len(self.plans[name].keep_layers) if name in self.plans else None
        settings = PruneSettings(trust_remote_code=self.recipe.trust_remote_code)
        encoder = self.runner.do(
            f"{name}.prune",
            lambda path: self.stages.prune(str(self.encoder_folder(trainer)), int(depth or 0), settings, path),
            output=f"{name}/{ENCODER}",
            inputs={"encoder": self._encoders[trainer], "depth": depth},
        )
        if self.runner.own is not None:
            remove_folder(self.folder / name / CHECKPOINT)
            WorkFolder.beside(self.folder / name / ENCODER).remove()
        return encoder

    def _at_commit(self, name: str, settings: S) -> S:
        """Return settings with the commit that was profiled: a hub branch may move during a long run."""
        commit = self.plans[name].model.get("revision") if name in self.plans else None
        return settings.model_copy(update={"revision": commit}) if commit else settings

    def _train(self, name: str, checkpoint: str | None, settings: TrainSettings) -> str | None:
        plain = bool(self.recipe.data.texts) and settings.learns_vectors
        texts = list(self.recipe.data.texts) if plain else self._texts(_TRAIN)
        settings, teacher = self._with_teacher(name, settings)
        # Those of triplets have no such keyword, so that a stage that knows no plain texts need not take it.
        kind = {"plain": True} if plain else {}
        # Depths that are not planned yet.
        unknown = any(one.trained_with == name and one.name not in {*self.plans, *self.errors} for one in self.recipe.variants)
        return self.runner.do(
            f"{name}.train",
            lambda path: self.stages.train(self.folder / name / CHECKPOINT, texts, settings, path, **kind),
            output=f"{name}/{ENCODER}",
            inputs={
                "checkpoint": checkpoint,
                "texts": self.sources.together(texts),
                "teacher": teacher,
                # identity() leaves out what changes no result: another interval between checkpoints is no reason to train again.
                # Nor is another machine, whose auto is another dtype; a dtype that is asked for is.
                "settings": settings.identity() | ({"dtype": settings.dtype} if settings.dtype != "auto" else {}),
                **kind,
                **({"depths": None} if unknown else {}),
            },
        )

    def _with_teacher(self, name: str, settings: TrainSettings) -> tuple[TrainSettings, str | None]:
        """Return settings whose teacher is a folder, its vectors kept in the run for all variants, and the teacher's digest."""
        teacher = settings.teacher
        if teacher is None:
            given = settings.teacher_vectors
            return settings, self.sources[given] if given is not None else "none"
        digest: str | None
        if teacher in self._variants:
            if teacher in self.errors:
                raise ConfigError(f"its teacher {teacher!r} failed")
            if teacher not in self._encoders:
                raise ConfigError(f"train.teacher: variant {teacher!r} comes after {name!r}; list the teacher first")
            digest, teacher = self._encoders[teacher], str(self.encoder_folder(teacher))
        else:
            digest = self.sources[teacher]
        vectors = settings.teacher_vectors or str(self.folder / TEACHER_VECTORS)
        return settings.model_copy(update={"teacher": teacher, "teacher_vectors": vectors}), digest

    def _evaluate(self, name: str, encoder: str | None, evaluation: Evaluation) -> None:
        evaluation = evaluation.model_copy(update={"data": evaluation.data or next(iter(self._texts(_DEV)), None)})
        sources = [str(one) for one in (evaluation.data, evaluation.mirror, evaluation.corpus) if one]
        settings = evaluation.model_dump(mode="json", exclude={"data", "mirror", "corpus"})
        self.runner.do(
            f"{name}.evaluate",
            lambda path: self.stages.evaluate(self.encoder_folder(name), evaluation, path),
            output=f"{name}/{RESULTS}",
            inputs={"encoder": encoder, "data": self.sources.together(sources), "settings": settings},
        )

    def _answer(self) -> None:
        evaluation, queries, name = self.recipe.evaluate or Evaluation(), self.recipe.queries, self.smallest()
        texts = next(iter(self._texts(_CORPUS)), evaluation.data)
        # In a dry run nothing has been made.
        if not queries or texts is None or (name is None and self.runner.own is not None):
            return
        encoder, settings = self._encoders[name] if name is not None else None, evaluation.settings
        # Nothing is said of the usual split, of which earlier releases said nothing.
        named = {"dtype", "max_length", *(("split",) if settings.split != type(settings).model_fields["split"].default else ())}
        how = settings.model_dump(mode="json", include=named)
        self.runner.do(
            "answer",
            lambda path: self.stages.answer(self.encoder_folder(str(name)), texts, queries, settings, path),
            output=ANSWERS,
            inputs={"queries": list(queries), "encoder": encoder, "texts": self.sources[texts], "settings": how},
        )
