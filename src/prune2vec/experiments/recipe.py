"""The recipe of the main job: which model, which texts, which cuts, how to train and what to measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, ValidationError, field_serializer, model_validator
from pydantic_core import PydanticCustomError

from prune2vec.errors import ConfigError, did_you_mean
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.experiments.profile_sections import missing_sections, remedy
from prune2vec.experiments.recipe_paths import DOCSTRINGS, absolute_paths
from prune2vec.experiments.run_folder import wrong_folder_name
from prune2vec.experiments.slim_stage import conflict, own_settings, slim_settings
from prune2vec.experiments.yaml_file import Location, dump_yaml, read_yaml, underscored
from prune2vec.models.text_settings import TextOptions
from prune2vec.planning.budget import Budget
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.settings import Seed, Settings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings

KEEP_ALL = "full"
ABOUT_MODEL = ("revision", "trust_remote_code")
_OWN = "recipe"


def _as_list(value: Any) -> Any:
    if value is None:
        return ()
    return (value,) if isinstance(value, (str, Path)) else value


Sources = Annotated[tuple[str, ...], BeforeValidator(_as_list)]


def _wrong(message: str, *at: str) -> PydanticCustomError:
    """Return a validation error about the key at ``at``, worded for the user."""
    return PydanticCustomError(_OWN, "{message}", {"message": message, "at": at})


class Mine(Settings):
    """Texts made from what the user has."""

    source: str = DOCSTRINGS
    """docstrings (of the Python packages installed beside prune2vec), or a folder of Markdown, RST or text files."""
    packages: tuple[str, ...] | None = None
    """Only the docstrings of these packages; default: of all that are installed."""
    max_pairs: int | None = Field(default=None, ge=1, le=10**9)
    """At most so many (query, text) pairs."""
    negatives: int = Field(default=1, ge=0, le=10**3)
    """Hard negatives for each pair."""
    dev_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Largest share of the pairs to hold out, by whole packages or files."""
    seed: Seed = 42
    """Seed of the split and of the draws."""


class Data(Settings):
    """Where the texts come from: files, or mining; not both."""

    train: Sources = ()
    """Training triplets: a file, a folder of files, a hub dataset id, or a list of these."""
    dev: str | None = None
    """Held-out triplets or a BEIR folder to evaluate on; never trained on."""
    profile: Sources = ()
    """Triplets for the profile; default: the training triplets."""
    mine: Mine | None = None
    """Make training and held-out triplets from text that you have, instead of train and dev."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.mine is not None and (self.train or self.dev):
            raise _wrong("mine makes the training and held-out texts; drop either mine or train and dev")
        if self.mine is None and not self.train:
            raise _wrong("no training texts; give data.train, or data.mine to make them")
        return self


class RecipeVariant(Settings):
    """One cut of the model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the variant and of its folder."""
    method: str = "l3prune"
    """A planner (prune2vec plan --help lists them), or full: keep every layer."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the planner, for l3prune for example {variant: small}."""
    budget: Budget | None = None
    """Limits that the plan must keep: max-params, max-layers, max-memory, min-speedup."""
    slim: SlimSettings | None = None
    """How the neurons to cut are chosen, for example {width-cut: 30%, importance: gates}; default: gates, where the plan cuts a
    share of them. Texts, what stands around them, pooling and hard negatives are those of the other stages."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        from prune2vec.planning.planner import planners

        known = (KEEP_ALL, *planners.names())
        here = f"variant {self.name!r}"
        if self.method not in known:
            raise _wrong(f"{here}: no method is called {self.method!r}{did_you_mean(self.method, known)}")
        if self.method == KEEP_ALL and (self.parameters or self.budget):
            raise _wrong(f"{here}: method full keeps every layer; it takes neither parameters nor a budget")
        reason = wrong_folder_name(self.name)
        if reason is not None:
            raise _wrong(f"{here}: {reason}")
        self._check_parameters(here)
        self._check_importance(here)
        self._check_share(here)
        return self

    def sections(self) -> tuple[str, ...]:
        """Return what the method needs of the profile beside the layer-loss.

        Raises:
            ConfigError: The method has no such parameter, or a value does not fit.
        """
        from prune2vec.planning.planner import planners

        return () if self.method == KEEP_ALL else planners.get(self.method).build(self.parameters, where=self.method).needs()

    @field_serializer("slim")
    def _slim_without_others(self, slim: SlimSettings | None) -> dict[str, Any] | None:
        """Leave out what other stages decide: written down, a default would read back as if it had been given."""
        return None if slim is None else own_settings(slim)

    def _check_parameters(self, here: str) -> None:
        """Refuse parameters now that the planner would only refuse after the profile has been measured."""
        try:
            self.sections()
        except ConfigError as error:
            raise _wrong(f"{here}: {error}") from error

    def _check_share(self, here: str) -> None:
        """Refuse a slim section that does not say how much goes where no plan of ours would."""
        from prune2vec.planning.planner import planners

        slim = self.slim
        if slim is None or slim.width_cut is not None or slim.max_params is not None or self.method == "effir":
            return
        # A planner from elsewhere may put a share into its plan.
        if self.method == KEEP_ALL or planners.get(self.method).__module__.startswith("prune2vec."):
            raise _wrong(
                f"{here}: slim does not say how much to cut, and plans of {self.method} do not either; give slim.width-cut, "
                "such as 30%, or slim.max-params"
            )

    def _check_importance(self, here: str) -> None:
        """Refuse an unknown importance before any work; the registry is only loaded where one is named."""
        if self.slim is None:
            return
        from prune2vec.training.neuron_importance import importances

        if self.slim.importance not in importances.names():
            near = did_you_mean(self.slim.importance, importances.names())
            raise _wrong(f"{here}: no neuron importance is called {self.slim.importance!r}{near}")


class Evaluation(EvaluateSettings):
    """What to measure, and how."""

    data: str | None = None
    """Held-out triplets or a BEIR folder; default: data.dev, or the held-out part of the mined texts."""
    tasks: tuple[str, ...] = ()
    """MTEB tasks by name, or a preset: [mteb-15]."""
    mirror: str | None = None
    """Folder with offline copies of MTEB tasks."""

    def settings(self) -> EvaluateSettings:
        """Return the part that is not about where the data is."""
        return EvaluateSettings(**{name: getattr(self, name) for name in EvaluateSettings.model_fields})


def _default_variants() -> tuple[RecipeVariant, ...]:
    return (
        RecipeVariant(name="full", method=KEEP_ALL),
        RecipeVariant(name="large", method="l3prune", parameters={"variant": "large"}),
        RecipeVariant(name="small", method="l3prune", parameters={"variant": "small"}),
    )


class Recipe(Settings):
    """The main job: profile a model, make plans from the profile, then prune, train and evaluate each plan's encoder."""

    model: str = "smollm2"
    """Hub id, local folder or GGUF file; smollm2 stands for SmolLM2-135M-Instruct."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; default: the newest, written down as a commit."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model; only for models whose code you have read."""
    data: Data = Data(mine=Mine())
    """Where the texts come from."""
    profile: ProfileSettings = Field(default_factory=ProfileSettings)
    """How the layer-loss profile is measured."""
    variants: tuple[RecipeVariant, ...] = Field(default_factory=_default_variants, min_length=1)
    """The cuts to build and compare; the first is the one that the others are compared with."""
    prune: PruneSettings = Field(default_factory=PruneSettings)
    """How the cut model becomes a text encoder."""
    train: TrainSettings | None = TrainSettings()
    """How the encoders are trained; null to leave them untrained."""
    evaluate: Evaluation | None = Evaluation()
    """What is measured on every encoder; null for nothing."""
    queries: tuple[str, ...] = ()
    """Example queries that the smallest encoder answers at the end, from the held-out or mined texts."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        # Of two names that differ in case alone, some file systems make one folder.
        names = [variant.name.lower() for variant in self.variants]
        twice = next((variant.name for variant in self.variants if names.count(variant.name.lower()) > 1), None)
        if twice is not None:
            raise _wrong(f"two variants are called {twice!r}; give each its own name", "variants")
        if self.evaluate is not None and not self._has_test(self.evaluate):
            remedy = "give data.dev, evaluate.data or evaluate.tasks, or set evaluate to null"
            raise _wrong(f"nothing to evaluate on; {remedy}", "data")
        self._check_text()
        self._check_about_model()
        self._check_slim()
        self._check_profile()
        return self

    def _has_test(self, evaluate: Evaluation) -> bool:
        return bool(self.data.mine or self.data.dev or evaluate.data or evaluate.tasks)

    def _check_text(self) -> None:
        """Refuse text settings of a later stage's own: what is measured is what is built."""
        for name in TextOptions.model_fields:
            measured, built = getattr(self.profile, name), getattr(self.prune, name)
            if built not in (None, measured):
                raise _wrong(
                    f"prune.{name} is {built!r}, profile.{name} {measured!r}; give it in profile alone, so that what is measured is "
                    "what is built",
                    *("prune", name),
                )

    def _check_about_model(self) -> None:
        """Refuse a revision (or trust) of one stage's own: all stages work on one model."""
        for section in ("profile", "prune"):
            for name in ABOUT_MODEL:
                value = getattr(getattr(self, section), name)
                if value and value != getattr(self, name):
                    raise _wrong(f"give {name} once, at the top of the recipe, not in {section}", section, name)

    def _check_slim(self) -> None:
        """Refuse a setting of a slim section that says otherwise than the stage it belongs to: both must see the same texts."""
        for variant in self.variants:
            found = conflict(variant.slim, self.profile, self.train) if variant.slim is not None else None
            if found is not None:
                name, section = found
                raise _wrong(f"variant {variant.name!r}: give {name} once, in {section}, not in slim", "variants")

    def _check_profile(self) -> None:
        """Refuse a profile that lacks what a variant's method reads, before hours go into measuring it."""
        needed = {variant.name: variant.sections() for variant in self.variants}
        missing = missing_sections(self.profile, (name for sections in needed.values() for name in sections))
        if missing:
            here = next(name for name, sections in needed.items() if missing[0] in sections)
            raise _wrong(
                f"variant {here!r} needs {missing[0]}, which the profile does not measure; {remedy(self.profile, missing)}",
                *("profile", "scorers"),
            )

    def slim_settings(self, variant: RecipeVariant) -> SlimSettings:
        """Return how a variant is slimmed, with the other stages' settings and the model's filled in."""
        return slim_settings(variant.slim, self.train, about_model=self._about_model())

    def profile_settings(self) -> ProfileSettings:
        """Return the profile's settings with the model's revision and trust filled in."""
        return self.profile.model_copy(update=self._about_model())

    def prune_settings(self) -> PruneSettings:
        """Return the pruning settings with the model's revision and trust filled in."""
        return self.prune.model_copy(update=self._about_model())

    def _about_model(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ABOUT_MODEL}

    def to_yaml(self) -> str:
        """Return the recipe with every setting spelled out, as YAML."""
        return dump_yaml(self.model_dump(mode="json", exclude={"profile": set(ABOUT_MODEL), "prune": set(ABOUT_MODEL)}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe; relative paths in it are relative to its folder.

        Raises:
            ConfigError: It cannot be read, a key is unknown, a value does not fit or a local path is not there; the
                message has file and line, and the closest name that would fit.
        """
        file = read_yaml(path)
        return cls._checked(file.values, where=file.where, base=path.absolute().parent)

    @classmethod
    def of(cls, values: Mapping[str, Any], *, where: str = "recipe") -> Self:
        """Validate a recipe given as a mapping; relative paths in it are relative to the current folder.

        Raises:
            ConfigError: As ``load``.
        """
        return cls._checked(underscored(values), where=lambda location: where, base=Path.cwd())

    @classmethod
    def _checked(cls, values: Mapping[str, Any], *, where: Callable[[Location], str], base: Path) -> Self:
        recipe = cls._located(values, where)
        resolved = absolute_paths(recipe.model_dump(mode="json"), base=base, where=where)
        return cls._located(resolved, where)

    @classmethod
    def _located(cls, values: Mapping[str, Any], where: Callable[[Location], str]) -> Self:
        try:
            return cls.build(values, where="recipe")
        except ConfigError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            first = error.__cause__.errors()[0]
            place = where(first["loc"] or first.get("ctx", {}).get("at", ()))
            text = first["msg"] if first["type"] == _OWN else str(error).removeprefix("recipe: ")
            raise ConfigError(f"{place}: {text}") from error
