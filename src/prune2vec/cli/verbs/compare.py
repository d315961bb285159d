"""``prune2vec compare``: several results -> one table and one page."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.outcome import Outcome, would
from prune2vec.cli.path_types import ExistingPath, OutputPath
from prune2vec.cli.verb import verb
from prune2vec.outputs import COMPARISON, check_kind

EXAMPLE = """
prune2vec compare full.json small.json
prune2vec compare runs/*/results.json -o report/
"""


@verb(example=EXAMPLE)
@click.argument("results", type=ExistingPath(), nargs=-1, required=True)
@click.option("-o", "--output", type=OutputPath(folder=True), help="Folder for the table and the page; default: only print.")
def compare(results: tuple[Path, ...], *, output: Path | None, dry_run: bool) -> Outcome:
    """Put RESULTS side by side.

    The first is what the others are compared with.
    """
    if dry_run:
        if output is not None:
            check_kind(output, COMPARISON)
        return would(f"compare {len(results)} results", reads=results, writes=output)
    from prune2vec.experiments.compare import compare_results

    comparison = compare_results(results, output=output)
    return Outcome(comparison.render(), comparison.to_json())
