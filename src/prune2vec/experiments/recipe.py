"""The recipe of the main job: which model, which texts, which cuts, how to train and what to measure; and a commented one."""

from __future__ import annotations

import copy
import json
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from prune2vec.data.triplet import TripletSettings
from prune2vec.errors import ConfigError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.experiments.cell_table import Cell
from prune2vec.experiments.recipe_variant import KEEP_ALL, RecipeVariant, missing_sections, remedy, wrong
from prune2vec.experiments.sweep import Sweep, cells_of
from prune2vec.experiments.yaml_file import OWN_MESSAGE, Location, dashed, dump_yaml, read_yaml, underscored
from prune2vec.models.text_settings import PAPER_POOLING, TextOptions
from prune2vec.paths import as_path, closest, looks_local
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.pruning.prune_settings import PruneSettings
from prune2vec.settings import Settings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import LABELS_ALONE, TrainSettings

ABOUT_MODEL = ("revision", "trust_remote_code")
DOCSTRINGS = "docstrings"
_BUILT_IN_MODELS = ("smollm2",)
# Keys by section that hold a path, or the name of something on the hub; those that hold a path alone; what the run may write itself.
_PATHS = {
    "": ("model",),
    "data": ("train", "texts", "dev", "profile"),
    "mine": ("source",),
    "profile": ("plain",),
    "train": ("dev", "teacher", "teacher_vectors"),
    "evaluate": ("data", "mirror", "corpus"),
}
_ONLY_LOCAL = {("mine", "source"), ("profile", "plain"), ("train", "dev"), *(("evaluate", key) for key in _PATHS["evaluate"])}
_TO_BE = ("teacher_vectors",)

_WIDTH = 110
# Given once at the top, or decided by the run itself.
_HIDDEN = (*ABOUT_MODEL, "restart")
_HEAD = """\
# A recipe for prune2vec: profile a model, choose cuts, then prune, train and evaluate each.
#
#     prune2vec run recipe.yaml -o runs/first
#
# Every setting is here with its default; what you delete keeps its default. Relative paths start from this file's
# folder. A run skips what has not changed, so the same command goes on after an interruption or an edit.
"""

S = TypeVar("S", ProfileSettings, PruneSettings, SlimSettings)


Sources = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: () if value is None else (value,) if isinstance(value, str) else value),
]


class Mine(TripletSettings):
    """Texts made from what the user has."""

    source: str = DOCSTRINGS
    """docstrings (of the Python packages installed beside prune2vec), or a folder of Markdown, RST or text files."""
    dev_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Largest share of the pairs to hold out, by whole packages or files."""


class Data(Settings):
    """Where the texts come from: files, or mining; not both."""

    train: Sources = ()
    """Training triplets: a file, a folder of files, a hub dataset id, or a list of these."""
    texts: Sources = ()
    """Plain texts, from which a variant with a teacher learns its vectors, in place of the triplets: files (.txt, Markdown,
    JSONL, Parquet, ...), folders, hub datasets."""
    dev: str | None = None
    """Held-out triplets or a BEIR folder to evaluate on; never trained on."""
    profile: Sources = ()
    """Triplets for the profile; default: the training triplets."""
    mine: Mine | None = None
    """Make training and held-out triplets from text that you have, instead of train and dev."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.mine is not None and (self.train or self.dev):
            raise wrong("mine makes the training and held-out texts; drop either mine or train and dev")
        if self.mine is None and not self.train and not (self.texts and self.profile):
            raise wrong("no training texts; give data.train, or data.mine to make them")
        return self


class Evaluation(EvaluateSettings):
    """What to measure, and how."""

    data: str | None = None
    """Held-out triplets or a BEIR folder; default: data.dev, or the held-out part of the mined texts."""
    tasks: tuple[str, ...] = ()
    """MTEB tasks by name, or a preset: [mteb-15]."""
    mirror: str | None = None
    """Folder with offline copies of MTEB tasks."""

    @property
    def settings(self) -> EvaluateSettings:
        """How, without what."""
        return EvaluateSettings(**{name: getattr(self, name) for name in EvaluateSettings.model_fields})


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
    variants: tuple[RecipeVariant, ...] = Field(
        default_factory=lambda: (
            RecipeVariant(name="full", method=KEEP_ALL),
            RecipeVariant(name="large", method="l3prune", parameters={"variant": "large"}),
            RecipeVariant(name="small", method="l3prune", parameters={"variant": "small"}),
        ),
    )
    """The cuts to build and compare; the first is the one that the others are compared with. Where there is a sweep, none unless
    they are given."""
    sweep: Sweep | None = None
    """More variants: every method at every size, by every way to train and seed, for example {methods: [full, depth, random], sizes:
    [20%, 40%, small, large], seeds: [1, 2], train: {short: {steps: 200}, long: {steps: 800}}}."""
    prune: PruneSettings = Field(default_factory=PruneSettings)
    """How the cut model becomes a text encoder."""
    train: TrainSettings | None = TrainSettings()
    """How the encoders are trained; null to leave them untrained. teacher may name a variant that comes earlier. Where model is
    an encoder's folder, it is the teacher where none is given, unless distil is none; an uncut variant is then left as it is, unless
    others are trained with it."""
    evaluate: Evaluation | None = Evaluation()
    """What is measured on every encoder; null for nothing."""
    queries: tuple[str, ...] = ()
    """Example queries that the smallest encoder answers at the end, from the held-out or mined texts."""

    @model_validator(mode="before")
    @classmethod
    def _only_the_sweep(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("sweep") is not None and "variants" not in values:
            return {**values, "variants": ()}
        return values

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The variants of the sweep, by where they stand in it; none without a sweep."""
        return tuple(cell for cell, _ in self._swept())

    def swept(self) -> Self:
        """Return the recipe with the sweep written out, its variants behind the others."""
        if self.sweep is None:
            return self
        return self.model_copy(update={"variants": (*self.variants, *(variant for _, variant in self._swept())), "sweep": None})

    def _swept(self) -> Iterator[tuple[Cell, RecipeVariant]]:
        return iter(()) if self.sweep is None else cells_of(self.sweep, self.train)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.sweep is not None:
            try:
                whole = self.swept()
            except ConfigError as error:
                raise wrong(str(error), "sweep") from error
            if self.variants:
                self._check_whole()
            try:
                whole._check_whole()
            except PydanticCustomError as error:
                about = error.context or {}
                # The recipe's own variants are as they should be, so it is a cell.
                raise wrong(about["message"], *(("sweep",) if about["at"] == ("variants",) else about["at"])) from error
        else:
            self._check_whole()
        return self

    def _check_whole(self) -> None:
        if not self.variants:
            raise wrong("variants: there is none; give at least one, or a sweep", "variants")
        # Of two names that differ in case alone, some file systems make one folder.
        names = [variant.name.lower() for variant in self.variants]
        twice = next((variant.name for variant in self.variants if names.count(variant.name.lower()) > 1), None)
        if twice is not None:
            raise wrong(f"two variants are called {twice!r}; give each its own name", "variants")
        tested = self.data.mine or self.data.dev
        if self.evaluate is not None and not (tested or self.evaluate.data or self.evaluate.tasks):
            hint = "give data.dev, evaluate.data or evaluate.tasks, or set evaluate to null"
            raise wrong(f"nothing to evaluate on; {hint}", "data")
        if self.queries and not (tested or (self.evaluate is not None and self.evaluate.data)):
            raise wrong(
                "no texts to answer the queries from; give data.dev, data.mine or evaluate.data, or drop queries", "queries"
            )
        self._check_stages()
        self._check_variants()
        # What a method reads must be measured, before hours go into the profile.
        needed = {variant.name: variant.sections() for variant in self.variants}
        missing = missing_sections(self.profile, (name for sections in needed.values() for name in sections))
        if missing:
            here = next(name for name, sections in needed.items() if missing[0] in sections)
            raise wrong(
                f"variant {here!r} needs {missing[0]}, which the profile does not measure; {remedy(self.profile, missing)}",
                *("profile", "scorers"),
            )

    def _check_stages(self) -> None:
        """Refuse settings of one stage's own that all must share: the model, and what a text is."""
        if self.profile.pooling == PAPER_POOLING:
            raise wrong(
                f"profile.pooling {PAPER_POOLING} is for profiles alone, as no encoder pools so; give weightedmean, mean or lasttoken",
                *("profile", "pooling"),
            )
        for name in TextOptions.model_fields:
            measured, built = getattr(self.profile, name), getattr(self.prune, name)
            if built not in (None, measured):
                there = f"profile.{name} {'unset' if measured is None else repr(measured)}"
                raise wrong(
                    f"prune.{name} is {built!r}, {there}; give it in profile alone, so that what is measured is what is built",
                    *("prune", name),
                )
        for section in ("profile", "prune"):
            for name in ABOUT_MODEL:
                value = getattr(getattr(self, section), name)
                if value and value != getattr(self, name):
                    raise wrong(f"give {name} once, at the top of the recipe, not in {section}", section, name)

    def _check_variants(self) -> None:
        """Refuse a variant's settings that do not fit those that it shares with the others."""
        for place, variant in enumerate(self.variants):
            try:
                variant.training(self.train)
                if (named := variant.trained_with) is not None:
                    here = f"variant {variant.name!r}: trained-with {named!r}"
                    other = next((one for one in self.variants[:place] if one.name == named), None)
                    if other is None or other.trained_with is not None:
                        raise ConfigError(f"{here} is no earlier variant that is trained itself; list one before it")
                    settings = other.training(self.train)
                    if settings is None:
                        raise ConfigError(f"{here}, which is not trained")
                    # Its training must be one that can have several depths.
                    TrainSettings.chosen(settings, {"depths": settings.depths or (1,)}, where=f"variant {named!r}: train")
            except ConfigError as error:
                raise wrong(str(error), "variants") from error
            if (found := variant.slim_conflict(self.profile, self.train)) is not None:
                raise wrong(f"variant {variant.name!r}: give {found[0]} once, in {found[1]}, not in slim", "variants")

    def of_model(self, settings: S) -> S:
        """Return a stage's settings with the model's revision and trust filled in."""
        return settings.model_copy(update={name: getattr(self, name) for name in ABOUT_MODEL})

    def taught(self) -> Self:
        """Return the recipe with the model as teacher, where that is an encoder's folder and nothing else is to be learnt.

        Who makes an encoder smaller has its vectors to learn from.
        """
        train = self.train
        if train is None or train.learns_vectors or train.distil in LABELS_ALONE:
            return self
        alone = train.deepest_teaches or train.cached or train.matryoshka_dims  # These work with no teacher.
        if alone or not Path(self.model, "modules.json").is_file():
            return self
        return self.model_copy(update={"train": TrainSettings.chosen(train, {"teacher": self.model}, where="train")})

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
        """Validate a recipe given as a mapping; relative paths in it are relative to the current folder."""
        return cls._checked(underscored(values), where=lambda location: where, base=Path.cwd())

    @classmethod
    def _checked(cls, values: Mapping[str, Any], *, where: Callable[[Location], str], base: Path) -> Self:
        # Paths are looked for only once all else is right.
        valid = cls._located(values, where)
        return cls._located(absolute_paths(valid.model_dump(mode="json"), base=base, where=where), where)

    @classmethod
    def _located(cls, values: Mapping[str, Any], where: Callable[[Location], str]) -> Self:
        try:
            return cls.build(values, where="recipe")
        except ConfigError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            first = error.__cause__.errors()[0]
            place = where(first["loc"] or first.get("ctx", {}).get("at", ()))
            text = first["msg"] if first["type"] == OWN_MESSAGE else str(error).removeprefix("recipe: ")
            raise ConfigError(f"{place}: {text}") from error


def absolute_paths(values: Mapping[str, Any], *, base: Path, where: Callable[[Location], str]) -> dict[str, Any]:
    """Return a valid recipe's values with every local path made absolute, from ``base``; ``where`` gives a key's place."""
    changed = copy.deepcopy(dict(values))
    teachers = [variant["name"] for variant in changed["variants"]]
    words = {("", "model"): _BUILT_IN_MODELS, ("mine", "source"): (DOCSTRINGS,), ("train", "teacher"): teachers}
    for location, kind, section in _sections_with_paths(changed):
        for key in _PATHS[kind] if section else ():
            if not (found := section.get(key)):
                continue
            about: dict[str, Any] = {
                "place": where((*location, key)),
                "only_local": (kind, key) in _ONLY_LOCAL,
                "to_be": key in _TO_BE,
            }
            names = found if isinstance(found, list) else [found]
            names = [name if name in words.get((kind, key), ()) else _absolute(name, base, **about) for name in names]
            section[key] = names if isinstance(found, list) else names[0]
    return changed


def _sections_with_paths(values: Mapping[str, Any]) -> Iterator[tuple[tuple[Any, ...], str, Any]]:
    """Yield where each section of a recipe is that may hold paths, what kind it is, and the section itself, which may not be there."""
    yield (), "", values
    for kind in ("data", "profile", "train", "evaluate"):
        yield (kind,), kind, values.get(kind)
    yield ("data", "mine"), "mine", (values.get("data") or {}).get("mine")
    for number, variant in enumerate(values["variants"]):
        yield ("variants", number, "train"), "train", variant.get("train")
    for way, settings in ((values.get("sweep") or {}).get("train") or {}).items():
        yield ("sweep", "train", way), "train", settings


def _absolute(name: str, base: Path, *, place: str, only_local: bool, to_be: bool) -> str:
    try:
        path = Path(os.path.normpath(base / as_path(name)))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    if to_be or os.path.exists(path):
        return str(path)
    if only_local or looks_local(name):
        hint = closest(path) or "; relative paths start from the recipe's folder"
        raise ConfigError(f"{place}: {path} does not exist{hint}")
    return name


def init_recipe() -> str:
    """Return a valid, commented recipe that holds every default."""
    return "\n".join([_HEAD, *_settings(Recipe(), indent="", skip=())]) + "\n"


def _settings(settings: Settings, *, indent: str, skip: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    fields = type(settings).model_fields
    own = type(settings).__annotations__
    for name in sorted(set(fields) - set(skip), key=lambda name: (name not in own, list(fields).index(name))):
        lines += _comment(fields[name].description or "", indent)
        key, value = name.replace("_", "-"), getattr(settings, name)
        if isinstance(value, Settings):
            lines += [f"{indent}{key}:", *_settings(value, indent=indent + "  ", skip=_HIDDEN)]
        elif value and isinstance(value, tuple) and isinstance(value[0], RecipeVariant):
            lines.append(f"{indent}{key}:")
            for part, field in RecipeVariant.model_fields.items():
                lines += _comment(f"{part}: {field.description}", "  ")
            lines += [f"{indent}  - {_flow(one.model_dump(mode='json', exclude_unset=True))}" for one in value]
        else:
            lines.append(f"{indent}{key}: {_flow(list(value) if isinstance(value, tuple) else value)}")
        lines += [""] if not indent else []
    return lines


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _flow(value: Any) -> str:
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    text = yaml.safe_dump(dashed(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
