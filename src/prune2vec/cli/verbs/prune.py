"""``prune2vec prune``: model + plan.json -> checkpoint folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath, SourceName
from prune2vec.cli.verb import Outcome, check_model, verb, would
from prune2vec.outputs import ENCODER, check_ours

if TYPE_CHECKING:
    from prune2vec.pruning.prune_settings import PruneSettings


OPTIONS = OptionGroup(
    "settings", "What is saved", "prune2vec.pruning.prune_settings:PruneSettings", only_config=("symmetric separator")
)


@verb(
    example="prune2vec prune smollm2 plan.json -o small/",
    sections=[OPTIONS],
)
@click.argument("model", type=SourceName("model"))
@click.argument("plan", type=ExistingPath())
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def prune(model: str, plan: Path, *, output: Path, settings: PruneSettings, dry_run: bool) -> Outcome:
    """Cut MODEL as PLAN says and save what is left.

    The result is a SentenceTransformer folder. Whole layers and one width for all layers leave a stock one, which loads
    anywhere; dropped sub-layers and uneven widths leave one that needs prune2vec installed and trust_remote_code=True. Only
    the weights that stay are read.
    """
    from prune2vec.files import read_json
    from prune2vec.planning.plan import PruningPlan
    from prune2vec.pruning.portable import describe_cut, record_of

    loaded = PruningPlan.load(plan)
    action = f"prune {model} to {', '.join(describe_cut(record_of(loaded)))}"
    if dry_run:
        check_ours(output, ENCODER)
        check_model(model)
        return would(action, reads=[model, plan], writes=output, settings=settings)
    from prune2vec.pruning.prune import prune_model

    folder = prune_model(model, loaded, output, settings=settings)
    parity = read_json(folder / "parity.json")
    return Outcome(str(folder), {"output": str(folder), "plan": loaded.to_json(), "parity": parity})
