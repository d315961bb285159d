"""Planners: profile in, plan out. Pure arithmetic: no model, no torch. Each method is one file here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune2vec.planners.budget import Budget as Budget
    from prune2vec.planners.make import make_plan as make_plan
    from prune2vec.planners.registry import planners as planners
    from prune2vec.planners.render import plan_figures as plan_figures
    from prune2vec.planners.render import render_plan as render_plan

_HOMES = {"Budget": "budget", "make_plan": "make", "planners": "registry", "render_plan": "render", "plan_figures": "render"}
__all__ = ["Budget", "make_plan", "plan_figures", "planners", "render_plan"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"prune2vec.planners.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
