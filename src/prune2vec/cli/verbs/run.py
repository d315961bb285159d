"""``prune2vec run``: recipe.yaml -> the whole chain, resumable."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.outcome import Outcome
from prune2vec.cli.path_types import ExistingPath, OutputPath
from prune2vec.cli.verb import verb


@verb(example="prune2vec init -o recipe.yaml\nprune2vec run recipe.yaml -o runs/first")
@click.argument("recipe", type=ExistingPath())
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder of the run.")
def run(recipe: Path, *, output: Path, dry_run: bool) -> Outcome:
    """Do all that RECIPE says, from profile to comparison.

    Every variant is planned, pruned, trained and evaluated, and all are compared at the end.

    Stages whose inputs have not changed are skipped, so the same command goes on after an interruption.
    """
    from prune2vec.experiments.run import run_recipe

    report = run_recipe(recipe, output, dry_run=dry_run)
    return Outcome(report.render(), report.to_json())
