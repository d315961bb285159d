"""``prune2vec slim``: model + plan.json + texts -> a plan with its width decided."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import TRIPLETS, ExistingPath, OptionGroup, OutputPath, SourceName, SourceNames
from prune2vec.cli.verb import Outcome, check_model, check_texts, verb, would

if TYPE_CHECKING:
    from prune2vec.training.slim_settings import SlimSettings

OPTIONS = OptionGroup(
    "settings",
    "Scoring and cutting",
    "prune2vec.training.slim_settings:SlimSettings",
    only_config=(
        "floor multiple batches learning_rate schedule warmup_steps gate_penalty gate_sharpness hard_negatives negative_sampling "
        "scale seed max_grad_norm gradient_checkpointing save_every symmetric separator"
    ),
)
EXAMPLE = """
prune2vec slim smollm2 plan.json --texts triplets/ -o slim-plan.json
prune2vec slim smollm2 plan.json --texts triplets/ -o slim-plan.json --importance activation --width-cut 30%
prune2vec slim smollm2 plan.json --scores slim-plan.gates.scores.safetensors -o half.json --width-cut 50%
"""


@verb(example=EXAMPLE, sections=[OPTIONS])
@click.argument("model", type=SourceName("model"))
@click.argument("plan", type=ExistingPath())
@click.option("--texts", type=SourceNames("path"), help=TRIPLETS)
@click.option("--scores", type=ExistingPath(), help="Cut by these scores of an earlier call instead of measuring.")
@click.option(
    "-o", "--output", type=OutputPath(folder=False), default="slim-plan.json", show_default=True, help="File to write."
)
def slim(
    model: str,
    plan: Path,
    *,
    texts: tuple[str, ...] | None,
    scores: Path | None,
    output: Path,
    settings: SlimSettings,
    dry_run: bool,
) -> Outcome:
    """Choose the neurons that stay in the MLPs that PLAN keeps of MODEL.

    The scores of all neurons are written beside the new plan. The same command resumes after an interruption.
    """
    if dry_run:
        from prune2vec.planning.plan import PruningPlan
        from prune2vec.training.width_decision import check_slim

        loaded = PruningPlan.load(plan)
        check_slim(loaded, settings, texts=texts is not None, scores=scores is not None)
        check_model(model)
        if texts is not None:
            check_texts(texts)
        action = f"slim the MLPs of {len(loaded.kept.mlps)} layers of {model}"
        reads = [model, plan, *(texts or ()), *filter(None, (scores,))]
        return would(action, reads=reads, writes=output, settings=settings)
    from prune2vec.training.slim import slim_plan
    from prune2vec.training.width_decision import render_slim, slim_figures

    made = slim_plan(model, plan, texts, output=output, settings=settings, scores=scores)
    return Outcome(f"{render_slim(made)}\n{output}", {"output": str(output), **slim_figures(made), "plan": made.to_json()})
