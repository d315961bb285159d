"""``plan``: profile in, plan out."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prune2vec.errors import ConfigError, PlanError, did_you_mean
from prune2vec.models.kept import Kept
from prune2vec.planning.budget import Budget
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.planner import Choice, Layers, planners
from prune2vec.profiling.profile import Profile
from prune2vec.public import public


@public("plan", "profile", "output")
def make_plan(
    profile: Profile | str | Path,
    *,
    method: str = "l3prune",
    budget: Budget | Mapping[str, Any] | None = None,
    output: Path | str | None = None,
    **parameters: Any,
) -> PruningPlan:
    """Decide what of a model stays.

    Args:
        profile: A profile, or the path of one.
        method: Name of a planner (``prune2vec methods`` lists them).
        budget: Limits, or a mapping of them; the pick is the best one within them by the profile.
        output: Where to write ``plan.json``; nowhere when None.
        **parameters: The planner's own parameters, such as ``variant="small"`` or ``depth=12``.

    Raises:
        ConfigError: There is no such planner, or it has no such parameter.
        PlanError: The parameters or the budget cannot be met.
    """
    measured = profile if isinstance(profile, Profile) else Profile.load(Path(profile))
    limits = Budget.chosen(budget, {}, where="budget")
    planner = planners.get(method)
    known = planner_parameters(method)
    unknown = [name for name in parameters if name not in known]
    if unknown:
        raise ConfigError(f"planner {method!r} has no parameter {unknown[0]!r}{did_you_mean(unknown[0], known)}")

    def allowed(keep: Layers | Kept) -> bool:
        return limits.allows(measured.shape, keep)

    choice: Choice = planner(measured, allowed, **parameters)
    over = limits.exceeded(measured.shape, choice.kept)
    if over:
        given = ", ".join(f"{name} {value}" for name, value in choice.parameters.items())
        raise PlanError(
            f"{method}{f' ({given})' if given else ''} is over the budget: {'; '.join(over)}; cut more, or loosen it"
        )
    plan = PruningPlan(
        model=dict(measured.model),
        shape=measured.shape,
        keep_layers=choice.keep,
        drop_attention=choice.drop_attention,
        drop_mlp=choice.drop_mlp,
        width_cut=choice.width_cut,
        text=measured.text,
        method=method,
        parameters={**choice.parameters, **limits.set_limits()},
        notes=choice.notes,
        profile_digest=measured.digest,
    )
    if output is not None:
        plan.save(Path(output))
    return plan


def planner_parameters(method: str) -> dict[str, Any]:
    """Return a planner's parameters and their defaults."""
    signature = inspect.signature(planners.get(method))
    return {name: p.default for name, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
