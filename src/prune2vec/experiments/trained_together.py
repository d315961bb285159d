"""Which variants of a recipe belong together: those that learn from others, and those that are trained in the training of another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from prune2vec.errors import ConfigError
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.recipe_variant import KEEP_ALL, RecipeVariant
from prune2vec.planning.plan import PruningPlan
from prune2vec.training.train_settings import TrainSettings


def with_partners(recipe: Recipe, names: Collection[str]) -> tuple[RecipeVariant, ...]:
    """Return the variants of these names and those that they learn from or are trained with, in the recipe's order."""
    variants = {variant.name: variant for variant in recipe.variants}
    wanted: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in wanted:
            continue
        wanted.add(name)
        settings, trainer = variants[name].training(recipe.train), variants[name].trained_with
        if settings is not None and settings.teacher in variants:
            waiting.append(str(settings.teacher))
        # One training for all that are trained with a variant: without some of them it would be another one.
        waiting += [one.name for one in recipe.variants if one.trained_with == name]
        waiting += [trainer] if trainer is not None else []
    return tuple(variant for variant in recipe.variants if variant.name in wanted)


def copies_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the variants that are the model as it is: every layer, neuron and token, and its own attention."""
    return tuple(
        one.name
        for one in recipe.variants
        if one.method == KEEP_ALL
        and one.slim is None
        and one.vocabulary is None
        and (one.attention or recipe.prune.attention) == "kept"
    )


def done_apart(recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the variants that can be done apart from each other: all but those trained in the training of another."""
    return tuple(variant.name for variant in recipe.variants if variant.trained_with is None)


def cut_depths(recipe: Recipe, plans: Mapping[str, PruningPlan], name: str) -> list[int]:
    """Return the depths of the variants that are trained with one, of those whose plan is there.

    Raises:
        ConfigError: One of them is no cut of it to its first layers.
    """
    depths, whole = [], plans.get(name)
    for one in recipe.variants:
        plan = plans.get(one.name)
        if one.trained_with != name or plan is None or whole is None:
            continue
        kept = len(plan.keep_layers)
        same = plan.vocabulary == whole.vocabulary and plan.kept.whole_blocks and whole.kept.whole_blocks
        if not same or whole.keep_layers[:kept] != plan.keep_layers:
            raise ConfigError(
                f"variant {one.name!r} is trained with {name!r}, but does not keep the first of its layers, whole and with the same "
                "tokens; let it be trained alone"
            )
        depths.append(kept)
    return depths


def same_cuts(
    recipe: Recipe, plans: Mapping[str, PruningPlan], training: Callable[[str], TrainSettings | None]
) -> dict[str, str]:
    """Return the variants whose encoder is that of an earlier one, and which: they keep and see the same, and are trained alike.

    ``training`` returns how a variant is trained, or the one that it is trained with.

    Raises:
        ConfigError: A variant is trained with one whose first layers it does not keep.
    """
    variants = {variant.name: variant for variant in recipe.variants}
    first: dict[object, str] = {}
    same = {}
    for name, plan in plans.items():
        trainer, settings = variants[name].trained_with, training(name)
        tokens = plan.vocabulary.kept if plan.vocabulary is not None else None
        attention = variants[trainer or name].attention or recipe.prune.attention
        cut = plan.keep_layers, plan.drop_attention, plan.drop_mlp, tuple(sorted(plan.neurons.items())), tokens, attention
        depths = tuple(cut_depths(recipe, plans, trainer or name))
        if trainer is not None and trainer in plans and plans[trainer].keep_layers == plan.keep_layers:
            trainer = None
        other = first.setdefault((cut, settings and settings.model_dump_json(), trainer, depths), name)
        if other != name:
            same[name] = other
    return same
