"""What the stages of a run read, write and depend on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Evaluation, Recipe, RecipeVariant
from prune2vec.experiments.recipe_paths import DOCSTRINGS
from prune2vec.experiments.recipe_sources import SourceDigests, installed_packages
from prune2vec.experiments.run_folder import ANSWERS, CHECKPOINT, DATA, ENCODER, PLAN, PROFILE, RECIPE, RESULTS, SLIM_PLAN
from prune2vec.experiments.stage_runner import StageRunner
from prune2vec.experiments.stages import Stages
from prune2vec.files import digest_json, write_bytes, write_text
from prune2vec.outputs import OwnFolder, remove_folder
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.resume import WorkFolder
from prune2vec.settings import Settings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.width_decision import scores_beside

_TRAIN, _DEV, _CORPUS = "train.jsonl.gz", "dev.jsonl.gz", "corpus.jsonl.gz"

S = TypeVar("S", PruneSettings, SlimSettings)


class VariantRun:
    """The stages of one recipe in one folder.

    Attributes:
        recipe: The recipe.
        folder: Folder of the run.
        stages: What does the work.
        ledger: Stages done so far.
        sources: Digests of what was read.
        plans: Plan of each variant, its width decided; in a dry run only those that are there and stay.
        twins: Variants that keep the same of the model as an earlier one, and which.
    """

    def __init__(self, recipe: Recipe, folder: Path, stages: Stages, own: OwnFolder | None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.ledger = StageRunner(folder, own, before=self._begin)
        self.sources = SourceDigests()
        self.plans: dict[str, PruningPlan] = {}
        self.twins: dict[str, str] = {}
        self.stages = stages
        self._encoders: dict[str, str | None] = {}
        self._scores_of: dict[str, Path] = {}

    def do(self) -> None:
        """Do every stage that is not done, or, in a dry run, find out which would be."""
        self._mine()
        profile = self._profile()
        plans = {variant.name: self._slim(variant, self._plan(variant, profile)) for variant in self.recipe.variants}
        self._find_twins()
        for name, plan in plans.items():
            if name in self.twins:
                self._reuse(name)
            else:
                self._build(name, plan)
        self._answer()

    def _begin(self) -> None:
        """Look for all that the recipe names, and only then begin to write."""
        self.stages.check(self.recipe)
        if self.ledger.own is not None:
            with self.ledger.own.writing(RECIPE):
                self.write_recipe()

    def write_recipe(self) -> None:
        """Write the recipe with every setting spelled out."""
        write_text(self.folder / RECIPE, self.recipe.to_yaml())

    def encoder_folder(self, name: str) -> Path:
        """Return the folder of a variant's finished encoder."""
        return self.folder / self.twins.get(name, name) / (ENCODER if self.recipe.train is not None else CHECKPOINT)

    def smallest(self) -> str | None:
        """Return the first variant with the fewest parameters; None while a plan is missing."""
        if len(self.plans) < len(self.recipe.variants):
            return None
        return min(self.plans, key=lambda name: self.plans[name].shape.params(self.plans[name].kept))

    def _mine(self) -> None:
        settings = self.recipe.data.mine
        if settings is None:
            return
        found = installed_packages() if settings.source == DOCSTRINGS else self.sources.of(settings.source)
        inputs = {"settings": _plain(settings), "source": found}
        self.ledger.do("mine", lambda path: self.stages.mine(settings, path), output=DATA, inputs=inputs)
        # What follows depends on the texts alone, not on whatever else was written down beside them.
        stamp = self.ledger.stamps.get("mine")
        for name in (_TRAIN, _DEV, _CORPUS):
            digest = digest_json(stamp.output.get(name, "none")) if stamp is not None else None
            self.sources.set(str(self.folder / DATA / name), digest)

    def _train_texts(self) -> list[str]:
        return self._mined(_TRAIN) or list(self.recipe.data.train)

    def _dev_texts(self) -> str | None:
        return next(iter(self._mined(_DEV)), self.recipe.data.dev)

    def _search_texts(self) -> str | None:
        return next(iter(self._mined(_CORPUS)), self.recipe.data.dev)

    def _mined(self, name: str) -> list[str]:
        return [str(self.folder / DATA / name)] if self.recipe.data.mine is not None else []

    def _profile(self) -> str | None:
        model, settings = self.recipe.model, self.recipe.profile_settings()
        texts = list(self.recipe.data.profile) or self._train_texts()
        return self.ledger.do(
            "profile",
            lambda path: self.stages.profile(model, texts, settings, path),
            output=PROFILE,
            inputs={
                "model": self._model(),
                "texts": self.sources.together(texts),
                "plain": self.sources.of(str(settings.plain)) if settings.plain is not None else "none",
                "settings": _plain(settings),
            },
        )

    def _model(self) -> str | None:
        return self.sources.of(self.recipe.model)

    def _plan(self, variant: RecipeVariant, profile: str | None) -> str | None:
        output = f"{variant.name}/{PLAN}"
        plan = self.ledger.do(
            f"{variant.name}.plan",
            lambda path: self.stages.plan(self.folder / PROFILE, variant, path),
            output=output,
            inputs={"profile": profile, "variant": variant.model_dump(mode="json", exclude={"slim"})},
        )
        if plan is not None:
            self.plans[variant.name] = PruningPlan.load(self.folder / output)
        return plan

    def _slim(self, variant: RecipeVariant, plan: str | None) -> str | None:
        """Decide the width of a variant's plan, if it is to be cut; return the digest of its final plan."""
        name, depth_plan = variant.name, self.plans.get(variant.name)
        if variant.slim is None and (depth_plan is None or not depth_plan.width_cut):
            self._forget_slim(name)
            return plan
        model, texts, depth_file = self.recipe.model, self._train_texts(), self.folder / name / PLAN
        settings = self._at_commit(name, self.recipe.slim_settings(variant))
        # Another interval between checkpoints, or another device, is no reason to rank again.
        cut = settings.model_dump(mode="json", include={"width_cut", "max_params", "floor", "multiple", "uniform"})
        final = self.ledger.do(
            f"{name}.slim",
            lambda path: self._ranked_once(name, settings, lambda: self.stages.slim(model, depth_file, texts, settings, path)),
            output=f"{name}/{SLIM_PLAN}",
            inputs={
                "model": self._model(),
                "plan": plan,
                "texts": self.sources.together(texts),
                "settings": {**settings.identity(), **cut},
            },
        )
        self.plans.pop(name, None)
        if final is not None:
            self._scores_of.setdefault(_ranked_as(PruningPlan.load(depth_file), settings), self._scores(name, settings))
            self.plans[name] = PruningPlan.load(self.folder / name / SLIM_PLAN)
        return final

    def _ranked_once(self, name: str, settings: SlimSettings, slim: Callable[[], object]) -> None:
        """Hand a variant the scores of an earlier one that keeps the same before its width is cut, so that none is learnt twice.

        The stage itself looks whether they are for these texts.
        """
        found = self._scores_of.get(_ranked_as(self.plans[name], settings))
        if found is not None and found.exists():
            write_bytes(self._scores(name, settings), found.read_bytes())
        slim()

    def _scores(self, name: str, settings: SlimSettings) -> Path:
        return scores_beside(self.folder / name / SLIM_PLAN, settings.importance)

    def _forget_slim(self, name: str) -> None:
        """Remove the slimmed plan of an earlier recipe: it must not be taken for the variant's plan."""
        if self.ledger.own is not None:
            plan = self.folder / name / SLIM_PLAN
            self.ledger.own.remove(f"{name}/{SLIM_PLAN}")
            for leftover in plan.parent.glob(scores_beside(plan, "*").name):
                leftover.unlink()
            WorkFolder.beside(plan).remove()

    def _final_plan(self, name: str) -> Path:
        slimmed = self.folder / name / SLIM_PLAN
        return slimmed if slimmed.exists() else self.folder / name / PLAN

    def _find_twins(self) -> None:
        first: dict[object, str] = {}
        for name, plan in self.plans.items():
            twin = first.setdefault(_what_stays(plan), name)
            if twin != name:
                self.twins[name] = twin

    def _reuse(self, name: str) -> None:
        twin = self.twins[name]
        self.ledger.reuse(name, twin, stages=("prune", "train", "evaluate"))
        self._encoders[name] = self._encoders[twin]
        if self.ledger.own is None:
            return
        for leftover in (CHECKPOINT, ENCODER):
            remove_folder(self.folder / name / leftover)
        WorkFolder.beside(self.folder / name / ENCODER).remove()
        if self.recipe.evaluate is not None:
            results = (self.folder / twin / RESULTS).read_text(encoding="utf-8")
            with self.ledger.own.writing(f"{name}/{RESULTS}"):
                write_text(self.folder / name / RESULTS, results)

    def _build(self, name: str, plan: str | None) -> None:
        encoder = self._prune(name, plan)
        if self.recipe.train is not None:
            encoder = self._train(name, encoder, self.recipe.train)
        self._encoders[name] = encoder
        if self.recipe.evaluate is not None:
            self._evaluate(name, encoder, self.recipe.evaluate)

    def _prune(self, name: str, plan: str | None) -> str | None:
        model, settings = self.recipe.model, self._at_commit(name, self.recipe.prune_settings())
        return self.ledger.do(
            f"{name}.prune",
            lambda path: self.stages.prune(model, self._final_plan(name), settings, path),
            output=f"{name}/{CHECKPOINT}",
            inputs={"model": self._model(), "plan": plan, "settings": _plain(settings)},
        )

    def _at_commit(self, name: str, settings: S) -> S:
        """Return settings with the commit that was profiled: a hub branch may move during a long run."""
        commit = self.plans[name].model.get("revision") if name in self.plans else None
        return settings.model_copy(update={"revision": commit}) if commit else settings

    def _train(self, name: str, checkpoint: str | None, settings: TrainSettings) -> str | None:
        texts = self._train_texts()
        settings, teacher = self._with_teacher(name, settings)
        # identity() leaves out what changes no result: another interval between checkpoints is no reason to train again.
        given = {**settings.identity(), "distil_from": None}
        return self.ledger.do(
            f"{name}.train",
            lambda path: self.stages.train(self.folder / name / CHECKPOINT, texts, settings, path),
            output=f"{name}/{ENCODER}",
            inputs={"checkpoint": checkpoint, "texts": self.sources.together(texts), "teacher": teacher, "settings": given},
        )

    def _with_teacher(self, name: str, settings: TrainSettings) -> tuple[TrainSettings, str | None]:
        """Let ``distil_from`` name an earlier variant; that variant itself, and those with its layers, have no teacher."""
        teacher = str(settings.distil_from) if settings.distil_from is not None else ""
        if not teacher:
            return settings, "none"
        if teacher not in {variant.name for variant in self.recipe.variants}:
            return settings, self.sources.of(teacher)
        if teacher == name:
            return settings.model_copy(update={"distil_from": None}), "none"
        if teacher not in self._encoders:
            raise ConfigError(f"train.distil_from: variant {teacher!r} comes after {name!r}; list the teacher first")
        return settings.model_copy(update={"distil_from": self.encoder_folder(teacher)}), self._encoders[teacher]

    def _evaluate(self, name: str, encoder: str | None, evaluation: Evaluation) -> None:
        evaluation = evaluation.model_copy(update={"data": evaluation.data or self._dev_texts()})
        sources = [str(one) for one in (evaluation.data, evaluation.mirror, evaluation.corpus) if one]
        settings = evaluation.model_dump(mode="json", exclude={"data", "mirror", "corpus"})
        self.ledger.do(
            f"{name}.evaluate",
            lambda path: self.stages.evaluate(self.encoder_folder(name), evaluation, path),
            output=f"{name}/{RESULTS}",
            inputs={"encoder": encoder, "data": self.sources.together(sources), "settings": settings},
        )

    def _answer(self) -> None:
        queries, texts, name = self.recipe.queries, self._search_texts(), self.smallest()
        if not queries or texts is None:
            return
        encoder = self._encoders[name] if name is not None else None
        self.ledger.do(
            "answer",
            lambda path: self.stages.answer(self.encoder_folder(str(name)), texts, queries, path),
            output=ANSWERS,
            inputs={"queries": list(queries), "encoder": encoder, "texts": self.sources.of(texts)},
        )


def _what_stays(plan: PruningPlan) -> object:
    """Return what makes two plans of one model build the same encoder."""
    return plan.keep_layers, plan.drop_attention, plan.drop_mlp, tuple(sorted(plan.neurons.items()))


def _ranked_as(plan: PruningPlan, settings: SlimSettings) -> str:
    """Return what makes the neurons of two plans of one model score the same on the same texts."""
    return digest_json([plan.keep_layers, plan.drop_attention, plan.drop_mlp, settings.identity()])


def _plain(settings: Settings) -> dict[str, Any]:
    return settings.model_dump(mode="json")
