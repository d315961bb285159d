"""``prune2vec plan``: profile.json -> plan.json; arithmetic only, and where the vocabulary is cut on counts of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import click

from prune2vec.cli.options import ExistingPath, OptionGroup, OutputPath
from prune2vec.cli.verb import Outcome, verb, would

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from prune2vec.planning.planner import Budget
    from prune2vec.planning.vocabulary import VocabularyOptions
    from prune2vec.settings import Settings


def planner_parameters() -> type[Settings]:
    """Return a settings class with every parameter of every planner; none is required here.

    Where planners disagree on a parameter's type it is a word, which the planner that is chosen reads.
    """
    from collections import defaultdict
    from fractions import Fraction

    from pydantic import Field, create_model

    from prune2vec.planning.planner import planners
    from prune2vec.planning.shares import share_text
    from prune2vec.settings import Settings

    def described(method: str, field: FieldInfo) -> str:
        default = share_text(field.default) if isinstance(field.default, Fraction) else field.default
        unless = "" if field.is_required() or default is None else f" ({default} unless given)"
        meant = " ".join((field.description or "").split())
        return f"For {method}{unless}{f': {meant}' if meant else '.'}"

    users: dict[str, list[tuple[str, FieldInfo]]] = defaultdict(list)
    for method in planners:
        for name, field in planners.get(method).model_fields.items():
            users[name].append((method, field))
    fields: dict[str, Any] = {}
    for name, found in sorted(users.items()):
        kinds: list[Any] = [
            Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation for _, field in found
        ]
        kind = kinds[0] if all(one == kinds[0] for one in kinds) else str
        fields[name] = (kind | None, Field(None, description=" ".join(described(*user) for user in found)))
    return cast(type[Settings], create_model("PlannerParameters", __base__=Settings, **fields))


EXAMPLE = """
prune2vec plan profile.json --method l3prune --variant large -o plan.json
prune2vec plan profile.json --method depth --depth 12
prune2vec plan profile.json --method drop --drop 16M8A
prune2vec plan profile.json --method effir --max-params 90M
prune2vec plan profile.json --method depth --depth 12 --vocabulary 16k --texts corpus.jsonl
prune2vec plan profile.json --method effir --max-params 50M --texts corpus.jsonl
prune2vec plan show plan.json
"""


@verb(
    example=EXAMPLE,
    sections=[
        OptionGroup("parameters", "Parameters of the methods", planner_parameters),
        OptionGroup("budget", "Budget", "prune2vec.planning.planner:Budget"),
        OptionGroup("vocabulary", "Vocabulary", "prune2vec.planning.vocabulary:VocabularyOptions"),
    ],
)
@click.argument("profile", type=ExistingPath())
@click.option("--method", default="l3prune", show_default=True, help="How to choose; `prune2vec methods` lists them.")
@click.option("-o", "--output", type=OutputPath(folder=False), default="plan.json", show_default=True, help="File to write.")
def plan(
    profile: Path,
    *,
    method: str,
    output: Path,
    parameters: Settings,
    budget: Budget,
    vocabulary: VocabularyOptions,
    dry_run: bool,
) -> Outcome:
    """Choose what to keep: layers, sub-layers, neurons, tokens.

    PROFILE is a file made by `prune2vec profile`.

    To look at a plan: `prune2vec plan show PLAN`.
    """
    from prune2vec.planning.plan_view import render_plan
    from prune2vec.planning.planner import make_plan

    given = parameters.model_dump(exclude_unset=True)
    target = None if dry_run else output
    made = make_plan(profile, method=method, budget=budget, vocabulary=vocabulary, output=target, **given)
    if dry_run:
        return would(f"write the plan\n{render_plan(made)}", reads=[profile, *vocabulary.texts], writes=output)
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
