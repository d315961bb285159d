"""``prune2vec demo``: the main job on the default model and the docstrings of the installed packages."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.outcome import Outcome
from prune2vec.cli.path_types import OutputPath
from prune2vec.cli.verb import verb


@verb(example="prune2vec demo -o runs/demo")
@click.option("-o", "--output", type=OutputPath(folder=True), default="runs/demo", show_default=True, help="Folder of the run.")
def demo(*, output: Path, dry_run: bool) -> Outcome:
    """Show the whole chain on the default model and mined text.

    The model is SmolLM2-135M-Instruct; the text, the docstrings of the installed Python packages.

    Takes up to 20 minutes on 2 cores and 6 GB of memory; the same command goes on after an interruption.
    """
    from prune2vec.experiments.demo import demo_recipe, run_demo
    from prune2vec.experiments.run import run_recipe

    report = run_recipe(demo_recipe(), output, dry_run=True) if dry_run else run_demo(output)
    return Outcome(report.render(), report.to_json())
