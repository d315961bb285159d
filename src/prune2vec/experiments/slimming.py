"""How a recipe's variants are slimmed: with the texts, the pooling and the loss that the rest of the recipe gives."""

from __future__ import annotations

from typing import Any

from prune2vec.checkpoint.settings import PruneSettings
from prune2vec.slimming.settings import SlimSettings
from prune2vec.training.settings import TrainSettings

FROM_PRUNE = ("pooling", "append_eos", "wrapper", "separator")
FROM_TRAIN = ("symmetric", "scale", "hard_negatives", "negative_sampling")
SHARED = frozenset({*FROM_PRUNE, *FROM_TRAIN, "instruction", "max_length"})


def shared_settings(prune: PruneSettings, train: TrainSettings | None) -> dict[str, tuple[str, Any]]:
    """Return the settings that slimming shares with the other stages: name to the section that gives it, and its value."""
    shared = {name: ("prune", getattr(prune, name)) for name in FROM_PRUNE}
    if train is not None:
        shared |= {name: ("train", getattr(train, name)) for name in FROM_TRAIN}
    if train is None or train.instruction == "saved":
        shared["instruction"] = ("prune", prune.instruction or "none")
    else:
        shared["instruction"] = ("train", train.instruction)
    # The trainer cuts texts where the checkpoint does, if that is sooner.
    shared["max_length"] = ("prune", prune.max_length)
    if train is not None and train.max_length < prune.max_length:
        shared["max_length"] = ("train", train.max_length)
    return shared


def conflict(slim: SlimSettings, prune: PruneSettings, train: TrainSettings | None) -> tuple[str, str] | None:
    """Return the first setting that a slim section gives otherwise than the stage it belongs to, with that stage's name."""
    for name, (section, value) in shared_settings(prune, train).items():
        if name in slim.model_fields_set and getattr(slim, name) != value:
            return name, section
    return None


def own_settings(slim: SlimSettings) -> dict[str, Any]:
    """Return a slim section as JSON, without the settings of other stages that it does not give itself."""
    return slim.model_dump(mode="json", exclude=set(SHARED - slim.model_fields_set))


def slim_settings(
    slim: SlimSettings | None, prune: PruneSettings, train: TrainSettings | None, *, about_model: dict[str, Any]
) -> SlimSettings:
    """Return a variant's slim section, or the defaults, with what the other stages and the model decide filled in."""
    values = {name: value for name, (_, value) in shared_settings(prune, train).items()}
    return (slim or SlimSettings()).model_copy(update={**values, **about_model})
