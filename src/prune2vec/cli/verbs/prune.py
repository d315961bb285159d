"""``prune2vec prune``: model + plan.json -> checkpoint folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath, SourceName
from prune2vec.cli.verb import Outcome, verb, would
from prune2vec.outputs import ENCODER, check_ours

if TYPE_CHECKING:
    from prune2vec.pruning.prune_settings import PruneSettings


class PlanOrLayers(ExistingPath):
    """A plan's file, or the number of layers that stay, or their own numbers."""

    name = "plan"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number or numbers, or the path if it exists; ./6 is a file."""
        numbers = [number.strip() for number in str(value).split(",")]
        if not all(number.isdecimal() for number in numbers):
            return super().convert(value, param, ctx)
        return int(value) if len(numbers) == 1 else tuple(map(int, numbers))


OPTIONS = OptionGroup(
    "settings", "What is saved", "prune2vec.pruning.prune_settings:PruneSettings", only_config=("symmetric separator")
)


EXAMPLE = """
prune2vec prune smollm2 plan.json -o small/
prune2vec prune elastic/ 6 -o small/
prune2vec prune big/ 0,5,11 -o small/
"""


@verb(example=EXAMPLE, sections=[OPTIONS], pushes=True)
@click.argument("model", type=SourceName("model"))
@click.argument("plan", type=PlanOrLayers())
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def prune(model: str, plan: Path | int | tuple[int, ...], *, output: Path, settings: PruneSettings, dry_run: bool) -> Outcome:
    """Cut MODEL as PLAN says and save what is left. PLAN is a file that plan made, or the number of leading layers that stay (of
    an encoder that was trained at this depth by train --depths that is all there is to do), or the layers themselves, from 0: 0,5,11.

    The result is a SentenceTransformer folder. Whole layers and one width for all layers leave a stock one, which loads
    anywhere; dropped sub-layers and uneven widths leave one that needs prune2vec installed and trust_remote_code=True. Of
    a plan only the weights that stay are read.
    """
    from prune2vec.files import read_json
    from prune2vec.planning.plan import PruningPlan
    from prune2vec.pruning.portable import describe_cut, record_of

    what = PruningPlan.load(plan) if isinstance(plan, Path) else plan
    if dry_run:
        from prune2vec.models.cut import check_decided
        from prune2vec.models.load import load_config
        from prune2vec.models.source import resolve_source
        from prune2vec.pruning.depth_plan import kept_layers
        from prune2vec.pruning.prune import check_made_for

        check_ours(output, ENCODER)
        if os.path.isdir(model):
            source = resolve_source(model)
            config = load_config(source, trust_remote_code=settings.trust_remote_code)
            if isinstance(what, PruningPlan):
                check_made_for(source, config, what)
                check_decided(what.kept)
            else:
                kept_layers(what, model, config.num_hidden_layers)
        if isinstance(what, PruningPlan):
            to = ", ".join(describe_cut(record_of(what)))
        else:
            to = f"{what} layers" if isinstance(what, int) else f"layers {', '.join(map(str, what))}"
        reads = [model, *([plan] if isinstance(plan, Path) else [])]
        return would(f"prune {model} to {to}", reads=reads, writes=output, settings=settings)
    from prune2vec.pruning.prune import prune_model

    folder = prune_model(model, what, output, settings=settings)
    parity, done = read_json(folder / "parity.json"), PruningPlan.load(folder / "plan.json")
    return Outcome(str(folder), {"output": str(folder), "plan": done.to_json(), "parity": parity})
