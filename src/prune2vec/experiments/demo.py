"""The demo: the main job on the default model and the docstrings of the packages installed beside it."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import Report, run_recipe
from prune2vec.experiments.stages import Stages
from prune2vec.progress import say

PLAN = """\
The demo of prune2vec, with SmolLM2-135M-Instruct and the docstrings of the Python packages installed here:
  1. mine (summary line, rest of the docstring, hard negative) triplets; hold out whole packages
  2. profile: the contrastive loss of all 30 depths on {tuples} triplets
  3. plan: full keeps all layers; large and small are the two depths that L3Prune picks
  4. prune and train each for {steps} steps of {batch} triplets, and evaluate it on the packages held out
  5. answer {queries} questions with the small encoder
It takes 10 to 20 minutes on 2 cores, up to 6 GB of memory and 3 GB of disk in {folder}.
Stop it whenever you like: the same command resumes where it was."""


def demo_recipe() -> Recipe:
    """Return the recipe of the demo."""
    with as_file(files("prune2vec.experiments").joinpath("demo.yaml")) as path:
        return Recipe.load(path)


def run_demo(output: Path | str = "runs/demo", *, stages: Stages | None = None) -> Report:
    """Run the demo in the folder ``output``; says first what it will do and how long it takes.

    Raises:
        Prune2vecError: A stage failed, for example because the default model is neither installed nor available.
    """
    recipe = demo_recipe()
    train, profile = recipe.train, recipe.profile
    say(
        PLAN.format(
            tuples=profile.groups * profile.group_size,
            steps=train.steps if train is not None else 0,
            batch=train.batch_size if train is not None else 0,
            queries=len(recipe.queries),
            folder=output,
        )
    )
    return run_recipe(recipe, output, stages=stages)
