"""What a variant's method reads from the profile, so that a recipe can be refused before hours of measuring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prune2vec.planning.budget import Budget
from prune2vec.planning.cut_loss_table import SECTION
from prune2vec.planning.drop_spec import parse_drop_spec
from prune2vec.planning.importance_order import ONE_SHOT, section_of
from prune2vec.profiling.profile_settings import ALL, LAYER_LOSS, PLAIN, ProfileSettings


def sections_for(method: str, parameters: Mapping[str, Any], budget: Budget | None) -> tuple[str, ...]:
    """Return the sections beside the layer-loss that a method of ours needs; none for a method that is not known here.

    Args:
        method: Name of a planner.
        parameters: What it is given.
        budget: Limits that it is given.

    Raises:
        PlanError: There is no such order, or what to drop cannot be read.
    """
    if method not in ("drop", "effir"):
        return ()
    order = section_of(str(parameters.get("order", ONE_SHOT)))
    if method == "drop":
        what = parameters.get("what")
        only_last = what is not None and all(part.last for part in parse_drop_spec(str(what)))
        return () if only_last else (order,)
    decided = all(parameters.get(name) is not None for name in ("depth", "mlps", "width"))
    searched = budget is not None and bool(budget.set_limits()) and not decided
    return (order, SECTION) if searched else (order,)


def missing_sections(profile: ProfileSettings, needed: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``needed`` that a profile with these settings would not have."""

    def is_measured(name: str) -> bool:
        return name in profile.scorers or (ALL in profile.scorers and (name != PLAIN or profile.plain is not None))

    return tuple(name for name in dict.fromkeys(needed) if not is_measured(name))


def remedy(profile: ProfileSettings, missing: Iterable[str]) -> str:
    """Return, in words, the settings with which the profile has what is missing."""
    wanted = dict.fromkeys((LAYER_LOSS, *profile.scorers, *missing))
    plain = ", and profile.plain to a file or folder of running text" if PLAIN in wanted and profile.plain is None else ""
    return f"set profile.scorers: [{', '.join(wanted)}]{plain}"
