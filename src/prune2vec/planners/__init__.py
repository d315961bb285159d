"""Planners: profile in, plan out. Pure arithmetic: no model, no torch. Each method is one file here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.planners.budget import Budget as Budget
    from prune2vec.planners.make import make_plan as make_plan
    from prune2vec.planners.registry import planners as planners
    from prune2vec.planners.render import plan_figures as plan_figures
    from prune2vec.planners.render import render_plan as render_plan

__all__ = ["Budget", "make_plan", "plan_figures", "planners", "render_plan"]
__getattr__ = lazy_names(
    __name__,
    budget=("Budget",),
    make=("make_plan",),
    registry=("planners",),
    render=("plan_figures", "render_plan"),
)
