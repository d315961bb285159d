"""``prune2vec init``: a commented recipe to edit."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.outcome import Outcome, would
from prune2vec.cli.path_types import OutputPath
from prune2vec.cli.verb import verb
from prune2vec.errors import CheckpointError
from prune2vec.files import write_text


@verb(example="prune2vec init -o recipe.yaml")
@click.option("-o", "--output", type=OutputPath(folder=False), default="recipe.yaml", show_default=True, help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(*, output: Path, force: bool, dry_run: bool) -> Outcome:
    """Write a commented recipe to edit."""
    if output.exists() and not force:
        raise CheckpointError(f"{output} is there already; give --force to replace it, or another name with -o")
    if dry_run:
        return would("write a recipe", reads=[], writes=output)
    from prune2vec.experiments.recipe_template import init_recipe

    write_text(output, init_recipe())
    return Outcome(f"{output}\nedit it, then: prune2vec run {output} -o runs/first", {"output": str(output)})
