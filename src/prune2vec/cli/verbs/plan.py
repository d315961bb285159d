"""``prune2vec plan``: profile.json -> plan.json; arithmetic only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath
from prune2vec.cli.outcome import Outcome, would
from prune2vec.cli.verb import verb

if TYPE_CHECKING:
    from prune2vec.planning.planner import Budget
    from prune2vec.settings import Settings


def _parameters() -> type[Settings]:
    from prune2vec.cli.planner_options import planner_parameters

    return planner_parameters()


def _budget() -> type[Budget]:
    from prune2vec.planning.planner import Budget

    return Budget


EXAMPLE = """
prune2vec plan profile.json --method l3prune --variant large -o plan.json
prune2vec plan profile.json --method depth --depth 12
prune2vec plan profile.json --method drop --drop 16M8A
prune2vec plan profile.json --method effir --max-params 90M
prune2vec plan show plan.json
"""


@verb(
    example=EXAMPLE,
    sections=[OptionGroup("parameters", "Parameters of the methods", _parameters), OptionGroup("budget", "Budget", _budget)],
)
@click.argument("profile", type=ExistingPath())
@click.option("--method", default="l3prune", show_default=True, help="How to choose; `prune2vec methods` lists them.")
@click.option("-o", "--output", type=OutputPath(folder=False), default="plan.json", show_default=True, help="File to write.")
def plan(profile: Path, *, method: str, output: Path, parameters: Settings, budget: Budget, dry_run: bool) -> Outcome:
    """Choose what to keep: layers, sub-layers, neurons.

    PROFILE is a file made by `prune2vec profile`.

    To look at a plan: `prune2vec plan show PLAN`.
    """
    from prune2vec.planning.plan_view import render_plan
    from prune2vec.planning.planner import make_plan

    given = parameters.model_dump(exclude_unset=True)
    made = make_plan(profile, method=method, budget=budget, output=None if dry_run else output, **given)
    if dry_run:
        return would(f"write the plan\n{render_plan(made)}", reads=[profile], writes=output)
    return Outcome(f"{render_plan(made)}\n{output}", made.to_json())


@verb(name="show", example="prune2vec plan show plan.json", writes=False)
@click.argument("plan", type=ExistingPath())
def plan_show(plan: Path) -> Outcome:
    """Print what PLAN keeps and saves.

    Kept layers and sub-layers, parameters before and after, FLOPs per token, memory.
    """
    from prune2vec.planning.plan import PruningPlan
    from prune2vec.planning.plan_view import plan_figures, render_plan

    loaded = PruningPlan.load(plan)
    return Outcome(render_plan(loaded), {"plan": loaded.to_json(), "figures": plan_figures(loaded)})
