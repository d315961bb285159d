"""One variant of a recipe: the cut, what it needs of the profile, and how its neurons are chosen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field, field_serializer, model_validator
from pydantic_core import PydanticCustomError

from prune2vec.errors import ConfigError, did_you_mean
from prune2vec.experiments.stage_runner import wrong_folder_name
from prune2vec.experiments.yaml_file import OWN_MESSAGE
from prune2vec.models.text_settings import TextOptions
from prune2vec.planning.depth_rules import Size, count_key
from prune2vec.planning.planner import Budget
from prune2vec.planning.vocabulary import Tokens
from prune2vec.profiling.profile_settings import ALL, LAYER_LOSS, PLAIN, ProfileSettings
from prune2vec.pruning.prune_settings import Attention
from prune2vec.settings import Settings
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import LABELS_ALONE, WITHOUT_TEACHER, TrainSettings

KEEP_ALL = "full"
_FROM_TRAIN = ("scale", "hard_negatives", "negative_sampling")
_SHARED = frozenset({*TextOptions.model_fields, *_FROM_TRAIN})


def wrong(message: str, *at: str) -> PydanticCustomError:
    """Return a validation error about the key at ``at``, worded for the user."""
    return PydanticCustomError(OWN_MESSAGE, "{message}", {"message": message, "at": at})


class RecipeVariant(Settings):
    """One cut of the model."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the variant and of its folder."""
    method: str = "l3prune"
    """A planner (prune2vec plan --help lists them), or full: keep every layer."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the planner, for l3prune for example {variant: small}."""
    size: Size | None = None
    """How much stays, for any method: a share of the layers (30%), L3Prune's small or large, or a number of layers. A method that
    does not keep whole layers gets at most as many parameters as the first so many layers have. Unset: by parameters or budget."""
    budget: Budget | None = None
    """Limits that the plan must keep: max-params, max-layers, max-memory, min-speedup."""
    vocabulary: Tokens | None = None
    """Tokens that stay, counted on the training texts (triplets, or else plain texts): a number (32k), the share of the texts'
    tokens that they cover (99.9%), or all. Unset: all."""
    slim: SlimSettings | None = None
    """How the neurons to cut are chosen, for example {width-cut: 30%, importance: gates}; default: gates, where the plan cuts a
    share of them. Texts, what stands around them, pooling and hard negatives are those of the other stages."""

    attention: Attention | None = None
    """Which tokens a token sees in this variant, kept or bidirectional, where that is to differ from prune.attention."""

    train: dict[str, Any] | None = Field(default_factory=dict)
    """Training settings of this variant alone, over those of train, for example {steps: 500}; null leaves it untrained."""

    trained_with: str | None = None
    """An earlier variant in whose training this one is trained too, at its depth of the same forward passes (train.depths), and cut
    from that encoder: one training in place of two. Its plan must keep the first layers of that one's."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        """Refuse now what the planner or the importance would refuse after the profile has been measured."""
        from prune2vec.planning.planner import planners

        known = (KEEP_ALL, *planners.names())
        here = f"variant {self.name!r}"
        if self.method not in known:
            raise wrong(f"{here}: no method is called {self.method!r}{did_you_mean(self.method, known)}")
        if self.method == KEEP_ALL and (self.parameters or self.budget or self.size is not None):
            raise wrong(f"{here}: method full keeps every layer; it takes neither parameters nor a size or budget")
        if (reason := wrong_folder_name(self.name)) is not None:
            raise wrong(f"{here}: {reason}")
        if self.trained_with is not None and (self.train != {} or self.slim is not None or self.attention is not None):
            raise wrong(
                f"{here}: trained-with takes that variant's training, neurons and attention; drop train, slim and attention"
            )
        try:
            self.sections()
            self._check_size()
        except ConfigError as error:
            raise wrong(f"{here}: {error}") from error
        if self.slim is not None:
            self._check_slim(self.slim, here)
        return self

    def _check_size(self) -> None:
        """Refuse two answers to how much stays."""
        if self.size is None:
            return
        key = count_key(self.method)
        if self.budget is not None:
            raise ConfigError("give a size or a budget, not both")
        if key in {str(name).replace("-", "_") for name in self.parameters}:
            raise ConfigError(f"give size or {key}, not both")

    def _check_slim(self, slim: SlimSettings, here: str) -> None:
        """Refuse an unknown importance, and a section that does not say how much goes where no plan of ours would."""
        from prune2vec.planning.planner import planners
        from prune2vec.training.neuron_importance import importances

        if slim.importance not in importances.names():
            raise wrong(
                f"{here}: no neuron importance is called {slim.importance!r}{did_you_mean(slim.importance, importances.names())}"
            )
        if slim.width_cut is not None or slim.max_params is not None or self.method == "effir":
            return
        # A planner from elsewhere may put a share into its plan.
        if self.method == KEEP_ALL or planners.get(self.method).__module__.startswith("prune2vec."):
            raise wrong(
                f"{here}: slim does not say how much to cut, and plans of {self.method} do not either; give slim.width-cut, "
                "such as 30%, or slim.max-params"
            )

    def training(self, shared: TrainSettings | None) -> TrainSettings | None:
        """Return how this variant is trained, with ``shared`` for all that it does not say itself; None leaves it untrained.

        Raises:
            ConfigError: A setting is unknown or does not fit.
        """
        if self.train is None or (shared is None and not self.train):
            return None
        if not self.train:
            return shared
        given = {str(key).replace("-", "_"): value for key, value in self.train.items()}
        if given.get("distil") in LABELS_ALONE:
            given = {**WITHOUT_TEACHER, **given}
        return TrainSettings.chosen(shared, given, where=f"variant {self.name!r}: train")

    def sections(self) -> tuple[str, ...]:
        """Return what the method needs of the profile beside the layer-loss."""
        from prune2vec.planning.planner import planners

        return () if self.method == KEEP_ALL else planners.get(self.method).build(self.parameters, where=self.method).needs()

    def slim_conflict(self, profile: TextOptions, train: TrainSettings | None) -> tuple[str, str] | None:
        """Return the first setting that ``slim`` gives otherwise than the stage it belongs to, with that stage's name."""
        stages: dict[str, tuple[str, Any]] = {name: ("profile", profile) for name in TextOptions.model_fields}
        if train is not None:
            stages |= {name: ("train", train) for name in _FROM_TRAIN}
        given = self.slim.model_fields_set if self.slim is not None else set()
        for name, (section, stage) in stages.items():
            if name in given and getattr(self.slim, name) not in (None, getattr(stage, name)):
                return name, section
        return None

    def slim_settings(self, train: TrainSettings | None) -> SlimSettings:
        """Return ``slim``, or the defaults, with what training decides; what a text is comes with the plan."""
        from_train = {name: getattr(train, name) for name in _FROM_TRAIN} if train is not None else {}
        return (self.slim or SlimSettings()).model_copy(update=from_train)

    @field_serializer("slim")
    def _slim_without_others(self, slim: SlimSettings | None) -> dict[str, Any] | None:
        """Leave out what other stages decide: written down, a default would read back as if it had been given."""
        return None if slim is None else slim.model_dump(mode="json", exclude=set(_SHARED - slim.model_fields_set))


def missing_sections(profile: ProfileSettings, needed: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``needed`` that a profile with these settings would not have."""
    all_but = {PLAIN} if profile.plain is None else set()
    whole = ALL in profile.scorers
    return tuple(name for name in dict.fromkeys(needed) if name not in profile.scorers and not (whole and name not in all_but))


def remedy(profile: ProfileSettings, missing: Iterable[str]) -> str:
    """Return, in words, the settings with which the profile has what is missing."""
    wanted = dict.fromkeys((LAYER_LOSS, *profile.scorers, *missing))
    plain = ", and profile.plain to a file or folder of running text" if PLAIN in wanted and profile.plain is None else ""
    return f"set profile.scorers: [{', '.join(wanted)}]{plain}"
