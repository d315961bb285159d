"""A recipe's run in shards on a Ray cluster, put together at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune2vec.errors import ConfigError
from prune2vec.experiments.compare import WRITTEN, compare_results
from prune2vec.experiments.recipe import Recipe
from prune2vec.experiments.run import Report, recipe_of, run_recipe
from prune2vec.experiments.stage_runner import RESULTS, count_of_shards
from prune2vec.experiments.stages import Stages
from prune2vec.experiments.trained_together import done_apart
from prune2vec.outputs import COMPARISON, OwnFolder, check_kind
from prune2vec.progress import say, set_enabled
from prune2vec.public import public
from prune2vec.ray_tasks import on_ray

TOGETHER = "comparison"
"""Folder of what is put together, beside those of the shards."""


@public("run", "recipe", "output")
def run_on_ray(
    recipe: Recipe | Path | str | Mapping[str, Any],
    output: Path | str,
    *,
    shards: int | str = "auto",
    stages: Stages | None = None,
    retries: int = 3,
) -> Report:
    """Do the variants of a recipe in shards, each a task of a Ray cluster, and compare them all in ``output/comparison``.

    A running cluster is joined when ``RAY_ADDRESS`` names one or Ray is initialised in this process; else a Ray of its own
    runs on this machine for as long as it takes. All machines need the same paths for what the recipe names and the output.

    Args:
        recipe: As for ``run_recipe``, as are stages.
        output: Folder to write; every shard has its own folder in it, as of ``run_recipe(shard="0/4")``.
        shards: How many; auto takes as many as ``output`` has, else one a GPU, or one every four CPUs where there is none.
        retries: How often a shard is started again when its worker dies; it resumes after its last finished stage.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: The recipe is wrong, it has fewer variants that are trained apart than ``shards``, or another run writes into a shard.
        CheckpointError: A folder to be written holds something else.
        EncodingError: No cluster answers, or a worker died more often than ``retries``. The other shards are stopped then.
        Prune2vecError: A stage failed; in a sweep, one that all cells need.
    """
    chosen, folder, together = recipe_of(recipe), Path(output).absolute(), Path(output).absolute() / TOGETHER
    swept = chosen.swept()
    names, apart = [variant.name for variant in swept.variants], len(done_apart(swept))
    # Refused at once, not after hours of work.
    OwnFolder(together, COMPARISON, check_kind(together, COMPARISON)).check(*WRITTEN)
    wanted = _wanted(shards, folder, apart)
    reports = on_ray(_run_shard, chosen, folder, stages, shards=wanted, retries=retries, most=apart)
    return _compared(reports, names, folder)


def _run_shard(recipe: Recipe, output: Path, stages: Stages | None, shard: str) -> Report:
    # The worker is a process of its own, and the driver says what is being done.
    set_enabled(False)
    return run_recipe(recipe, output, stages=stages, shard=shard)


def _compared(reports: Sequence[Report], names: Sequence[str], folder: Path) -> Report:
    """Compare what the shards have made, in the recipe's order."""
    errors = {name: reason for report in reports for name, reason in report.errors.items()}
    steps = tuple(step for report in reports for step in report.steps)
    made = [(report, report.comparison.rows) for report in reports if report.comparison is not None]
    if not made:
        for page in filter(None, (report.page for report in reports)):
            say(f"report: {page}")
        return Report(folder=folder, steps=steps, errors=errors)
    done = {row.name: report.folder for report, rows in made for row in rows}
    results = [done[name] / name / RESULTS for name in names if name in done]
    failed = [report.folder for report in reports if report.comparison is None]
    together = folder / TOGETHER
    return Report(
        folder=together,
        steps=steps,
        comparison=compare_results([*results, *failed], output=together),
        # Each shard has answered by the smallest encoder of its own.
        answers=min(made, key=lambda one: min(row.params for row in one[1]))[0].answers,
        errors=errors,
        page=together / "report.html",
    )


def _wanted(shards: int | str, folder: Path, variants: int) -> int | str:
    """Return how many shards of so many ``variants``, trained apart, there are to be, or auto."""
    wanted = (count_of_shards(folder) or "auto") if shards == "auto" else shards
    if wanted == "auto" or (isinstance(wanted, int) and 1 <= wanted <= variants):
        return wanted
    if shards == "auto":
        raise ConfigError(
            f"{folder} is divided into {wanted} shards, more than the recipe has variants that are trained apart ({variants}); "
            "name another output, or how many shards there are to be"
        )
    raise ConfigError(
        f"{wanted!r} shards: expected a number from 1 to {variants}, the number of variants that are trained apart, or auto"
    )
