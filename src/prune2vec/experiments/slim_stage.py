"""How a recipe's variants are slimmed: with the texts, the pooling and the loss that the rest of the recipe gives."""

from __future__ import annotations

from typing import Any

from prune2vec.models.text_settings import TextOptions
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.train_settings import TrainSettings

FROM_TRAIN = ("scale", "hard_negatives", "negative_sampling")
SHARED = frozenset({*TextOptions.model_fields, *FROM_TRAIN})


def conflict(slim: SlimSettings, profile: TextOptions, train: TrainSettings | None) -> tuple[str, str] | None:
    """Return the first setting that a slim section gives otherwise than the stage it belongs to, with that stage's name."""
    stages: dict[str, tuple[str, Any]] = {name: ("profile", profile) for name in TextOptions.model_fields}
    if train is not None:
        stages |= {name: ("train", train) for name in FROM_TRAIN}
    for name, (section, stage) in stages.items():
        if name in slim.model_fields_set and getattr(slim, name) not in (None, getattr(stage, name)):
            return name, section
    return None


def own_settings(slim: SlimSettings) -> dict[str, Any]:
    """Return a slim section as JSON, without the settings of other stages that it does not give itself."""
    return slim.model_dump(mode="json", exclude=set(SHARED - slim.model_fields_set))


def slim_settings(slim: SlimSettings | None, train: TrainSettings | None, *, about_model: dict[str, Any]) -> SlimSettings:
    """Return a variant's slim section, or the defaults, with what training and the model decide filled in.

    What a text is comes with the plan.
    """
    values = {name: getattr(train, name) for name in FROM_TRAIN} if train is not None else {}
    return (slim or SlimSettings()).model_copy(update={**values, **about_model})
