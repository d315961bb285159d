"""Whole experiments: run a recipe, compare results, report, and the demo. Names are loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.experiments.answers import answer as answer
    from prune2vec.experiments.compare import compare_results as compare_results
    from prune2vec.experiments.comparison import Comparison as Comparison
    from prune2vec.experiments.demo import run_demo as run_demo
    from prune2vec.experiments.plots import plot_profile as plot_profile
    from prune2vec.experiments.recipe import Recipe as Recipe
    from prune2vec.experiments.run import Report as Report
    from prune2vec.experiments.run import run_recipe as run_recipe
    from prune2vec.experiments.stages import Stages as Stages
    from prune2vec.experiments.template import init_recipe as init_recipe

__all__ = [
    "Comparison",
    "Recipe",
    "Report",
    "Stages",
    "answer",
    "compare_results",
    "init_recipe",
    "plot_profile",
    "run_demo",
    "run_recipe",
]
__getattr__ = lazy_names(
    __name__,
    answers=("answer",),
    compare=("compare_results",),
    comparison=("Comparison",),
    demo=("run_demo",),
    plots=("plot_profile",),
    recipe=("Recipe",),
    run=("Report", "run_recipe"),
    stages=("Stages",),
    template=("init_recipe",),
)
