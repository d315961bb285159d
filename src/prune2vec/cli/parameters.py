"""The parameters of all planners as one settings class, so that a new planner brings its own command-line options."""

from __future__ import annotations

import inspect
import typing
from typing import Any

from pydantic import Field, create_model

from prune2vec.planners import planners
from prune2vec.records.settings import Settings


def planner_parameters() -> type[Settings]:
    """Return a settings class with every keyword of every registered planner; none is required here."""
    users: dict[str, list[str]] = {}
    types: dict[str, Any] = {}
    for method in planners:
        hints = typing.get_type_hints(planners.get(method))
        for name, parameter in inspect.signature(planners.get(method)).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                users.setdefault(name, []).append(_described(method, parameter.default))
                kind = hints.get(name, str)
                types[name] = types[name] | kind if name in types else kind
    fields = {
        name: (types[name] | None, Field(default=None, description=f"For {', '.join(users[name])}.")) for name in sorted(types)
    }
    return typing.cast(type[Settings], create_model("PlannerParameters", __base__=Settings, **fields))  # type: ignore[call-overload]


def _described(method: str, default: object) -> str:
    return method if default in (None, inspect.Parameter.empty) else f"{method} ({default} unless given)"
