"""Tiny cut models to rank, and plans for them."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from prune2vec.planning.plan import PruningPlan
from prune2vec.training.importance_context import ImportanceContext, load_context
from prune2vec.training.slim_settings import SlimSettings
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

QUICK: dict[str, Any] = {"batch_size": 8, "batches": 3, "max_length": 32, "dtype": "float32", "device": "cpu"}


def tiny_plan(folder: Path, family: str = "llama", **changes: Any) -> tuple[Path, PruningPlan]:
    """Write a tiny model; return it with a plan that keeps 4 of 5 layers, one of them without MLP, one without attention."""
    model = folder / family if (folder / family).exists() else save_tiny(folder / family, family)
    drops = {"drop_attention": (1,), "drop_mlp": (2,), "width_cut": Fraction(3, 10)}
    plan = plan_for(model, (0, 1, 2, 4))
    # Not its path, so that plans made in different folders are equal.
    return model, replace(plan, model={**plan.model, "name": "tiny"}, **{**drops, **changes})


def tiny_context(folder: Path, family: str = "llama", *, output: Path | None = None, **settings: Any) -> ImportanceContext:
    """Return a tiny cut model as a context."""
    model, plan = tiny_plan(folder, family)
    chosen = SlimSettings(**{**QUICK, **settings})
    full = replace(plan, width_cut=Fraction(0)).with_text(chosen)
    return load_context(str(model), full, chosen, identity={}, output=output or folder / "slim.json")
