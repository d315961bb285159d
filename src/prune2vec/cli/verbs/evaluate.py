"""``prune2vec evaluate``: encoder -> results.json."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, Listed, OptionGroup, OutputPath, SourceName
from prune2vec.cli.verb import Printable, verb, would
from prune2vec.files import no_collection
from prune2vec.progress import say

if TYPE_CHECKING:
    from prune2vec.evaluation.evaluate_settings import EvaluateSettings

OPTIONS = OptionGroup(
    "settings",
    "Evaluating",
    "prune2vec.evaluation.evaluate_settings:EvaluateSettings",
    only_config=("batch_size seed speed_repeats speed_seconds"),
)
EXAMPLE = """
prune2vec evaluate encoder/ --data heldout.jsonl
prune2vec evaluate encoder/ --tasks SciFact,STSBenchmark -o results.json
prune2vec evaluate encoder/ --tasks mteb-15 --mirror mteb-copies/
prune2vec evaluate small/ --documents-by big/ --tasks SciFact
prune2vec evaluate encoder/ --tasks SciFact --max-documents 1000 --max-queries 100
"""


@verb(example=EXAMPLE, sections=[OPTIONS])
@click.argument("encoder", type=SourceName("encoder"))
@click.option("--data", type=SourceName("path"), help="Held-out triplets, or a BEIR folder.")
@click.option("--tasks", type=Listed(or_word=False), help="MTEB tasks, separated by commas, or a preset (mteb-15, beir-13).")
@click.option("--mirror", type=ExistingPath(), help="Folder with offline copies of MTEB tasks.")
@click.option(
    "--documents-by",
    type=SourceName("encoder"),
    help="Another encoder, for the documents: the one whose vectors ENCODER, for the queries, has learnt.",
)
@click.option("-o", "--output", type=OutputPath(folder=False), help="File to write; without it the result is only printed.")
def evaluate(
    encoder: str,
    *,
    data: str | None,
    tasks: list[str] | None,
    mirror: Path | None,
    documents_by: str | None,
    output: Path | None,
    settings: EvaluateSettings,
    dry_run: bool,
) -> Printable:
    """Measure quality, speed and size of ENCODER."""
    if data is None and tasks is None:
        raise click.UsageError("nothing to evaluate on: give --data or --tasks")
    if dry_run:
        from prune2vec.evaluation.results import Results
        from prune2vec.paths import check_is_encoder, check_outside

        for one in filter(None, (encoder, documents_by)):
            check_is_encoder(one)
        if output is not None:
            check_outside(Results.target(output), encoder)
        if data is not None and os.path.exists(data):
            from prune2vec.evaluation.retrieval import load_retrieval

            load_retrieval(data, settings)
        if tasks is not None:
            from prune2vec.evaluation.tasks import resolve_tasks

            chosen = resolve_tasks(tasks, mirror)
            if mirror is not None and (absent := [task.name for task in chosen if not (mirror / task.name).is_dir()]):
                say(f"{mirror} lacks {', '.join(absent)}, which will be missing in the results")
        reads = [encoder, *filter(None, [documents_by, data, *(tasks or ()), mirror])]
        return would(f"evaluate {encoder}", reads=reads, writes=output, settings=settings)
    with no_collection():
        from prune2vec.evaluation.evaluate import evaluate_encoder
        from prune2vec.machine import keep_freed_memory

    keep_freed_memory()
    return evaluate_encoder(
        encoder, data=data, tasks=tasks, mirror=mirror, output=output, documents_by=documents_by, settings=settings
    )
