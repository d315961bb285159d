"""``prune2vec run``, and the verbs around it: ``demo``, ``init`` and ``compare``."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.options import ExistingPath, Number, OutputPath, RayShards
from prune2vec.cli.verb import Outcome, Printable, verb, would
from prune2vec.errors import CheckpointError
from prune2vec.files import write_text
from prune2vec.outputs import COMPARISON, check_kind


@verb(example="prune2vec demo -o runs/demo")
@click.option("-o", "--output", type=OutputPath(folder=True), default="runs/demo", show_default=True, help="Folder of the run.")
def demo(*, output: Path, dry_run: bool) -> Printable:
    """Show the whole chain on the default model and mined text.

    The model is SmolLM2-135M-Instruct; the text, the docstrings of the installed Python packages.

    Takes about 10 minutes on 2 cores and up to 4 GB of memory; the same command resumes after an interruption.
    """
    from prune2vec.experiments.run import demo_recipe, run_demo, run_recipe

    return run_recipe(demo_recipe(), output, dry_run=True) if dry_run else run_demo(output)


RUN_EXAMPLE = """
prune2vec init -o recipe.yaml
prune2vec run recipe.yaml -o runs/first
prune2vec run sweep.yaml -o runs/sweep --list
prune2vec run sweep.yaml -o runs/sweep --shard 0/4
prune2vec run sweep.yaml -o runs/sweep --ray 4
"""


@verb(example=RUN_EXAMPLE)
@click.argument("recipe", type=ExistingPath())
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder of the run.")
@click.option("--list", "listed", is_flag=True, help="Only say which variants there are, and which are done.")
@click.option("--cell", metavar="NAME", help="Do one variant alone, and those that it learns from.")
@click.option("--shard", metavar="I/N", help="Do one of N parts of the variants (0/4 is the first of four), below OUTPUT.")
@click.option(
    "--ray",
    "shards",
    type=RayShards(),
    metavar="N",
    help="Do N parts on Ray, here or on the cluster of RAY_ADDRESS, and compare them; auto: those of OUTPUT, or one a GPU.",
)
def run(
    recipe: Path, *, output: Path, listed: bool, cell: str | None, shard: str | None, shards: int | str | None, dry_run: bool
) -> Printable:
    """Do all that RECIPE says, from profile to comparison.

    Every variant is planned, pruned, trained and evaluated, and all are compared at the end.

    Stages whose inputs have not changed are skipped, so the same command resumes after an interruption.
    """
    if shards is not None:
        if listed or cell is not None or shard is not None:
            raise click.UsageError("--ray does all parts; leave --list, --cell and --shard out")
        if dry_run:
            from prune2vec.experiments.recipe import Recipe

            Recipe.load(recipe)
            return would("run a recipe on Ray", reads=[recipe], writes=output)
        from prune2vec.experiments.ray_sweep import run_on_ray

        return run_on_ray(recipe, output, shards=shards)
    from prune2vec.experiments.run import list_cells, run_recipe

    if listed:
        if cell is not None:
            raise click.UsageError("--list and --cell do not go together")
        return list_cells(recipe, output, shard=shard)
    return run_recipe(recipe, output, dry_run=dry_run, cell=cell, shard=shard)


@verb(example="prune2vec init -o recipe.yaml")
@click.option("-o", "--output", type=OutputPath(folder=False), default="recipe.yaml", show_default=True, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(*, output: Path, force: bool, dry_run: bool) -> Outcome:
    """Write a commented recipe to edit."""
    if output.exists() and not force:
        raise CheckpointError(f"{output} is there already; give --force to replace it, or another name with -o")
    if dry_run:
        return would("write a recipe", reads=[], writes=output)
    from prune2vec.experiments.recipe import init_recipe

    write_text(output, init_recipe())
    return Outcome(f"{output}\nedit it, then: prune2vec run {output} -o runs/first", {"output": str(output)})


COMPARE_EXAMPLE = """
prune2vec compare full.json small.json
prune2vec compare runs/first -o report/
prune2vec compare results.json --gate yesterday.json --max-drop 0.5
prune2vec compare full.json small.json --diff
"""


@verb(example=COMPARE_EXAMPLE)
@click.argument("results", type=ExistingPath(), nargs=-1, required=True)
@click.option("-o", "--output", type=OutputPath(folder=True), help="Folder for the table and the page; default: only print.")
@click.option("--gate", type=ExistingPath(), help="Earlier results; ends with 1 if a score fell since, beyond its interval.")
@click.option(
    "--max-drop",
    type=Number(0, 100),
    metavar="POINTS",
    default=0.0,
    show_default=True,
    help="With --gate: so many points of 100 may be lost.",
)
@click.option("--diff", is_flag=True, help="Of two results: the queries that the second ranks worse, with their texts.")
def compare(
    results: tuple[Path, ...], *, output: Path | None, gate: Path | None, max_drop: float, diff: bool, dry_run: bool
) -> Printable:
    """Put RESULTS side by side.

    The first is what the others are compared with. Every difference has its 95 % interval, by a paired bootstrap over queries,
    pairs or texts.
    """
    if max_drop and gate is None:
        raise click.UsageError("--max-drop goes with --gate")
    if dry_run:
        if output is not None:
            check_kind(output, COMPARISON)
        return would(f"compare {len(results)} results", reads=[*results, *filter(None, [gate])], writes=output)
    from prune2vec.experiments.compare import compare_results

    return compare_results(results, output=output, gate=gate, max_drop=max_drop, diff=diff)
