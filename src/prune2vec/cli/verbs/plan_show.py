"""``prune2vec plan show``: what a plan keeps, and what that saves."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.outcome import Outcome
from prune2vec.cli.paths import Existing
from prune2vec.cli.verb import verb


@verb(name="show", example="prune2vec plan show plan.json", writes=False)
@click.argument("plan", type=Existing())
def plan_show(plan: Path) -> Outcome:
    """Print what PLAN keeps and saves.

    Kept layers and sub-layers, parameters before and after, FLOPs per token, memory.
    """
    from prune2vec.planners import plan_figures, render_plan
    from prune2vec.records.plan import PruningPlan

    loaded = PruningPlan.load(plan)
    return Outcome(render_plan(loaded), {"plan": loaded.to_json(), "figures": plan_figures(loaded)})
