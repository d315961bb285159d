"""The width stage: rank the neurons of the MLPs that stay, and cut the least important ones (EffiR's self-slimming)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.slimming.decision import check_slim as check_slim
    from prune2vec.slimming.make import slim_plan as slim_plan
    from prune2vec.slimming.registry import rankings as rankings
    from prune2vec.slimming.render import render_slim as render_slim
    from prune2vec.slimming.settings import SlimSettings as SlimSettings

__all__ = ["SlimSettings", "check_slim", "rankings", "render_slim", "slim_plan"]
__getattr__ = lazy_names(
    __name__,
    decision=("check_slim",),
    make=("slim_plan",),
    registry=("rankings",),
    render=("render_slim",),
    settings=("SlimSettings",),
)
