"""The parameters of all planners as one settings class, so that a new planner brings its own command-line options."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction
from typing import Annotated, Any, cast

from pydantic import Field, create_model
from pydantic.fields import FieldInfo

from prune2vec.planning.planner import planners
from prune2vec.planning.shares import share_text
from prune2vec.settings import Settings


def planner_parameters() -> type[Settings]:
    """Return a settings class with every parameter of every planner; none is required here.

    Where planners disagree on a parameter's type it is a word, which the planner that is chosen reads.
    """
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
        fields[name] = (kind | None, Field(None, description=" ".join(_described(*user) for user in found)))
    return cast(type[Settings], create_model("PlannerParameters", __base__=Settings, **fields))


def _described(method: str, field: FieldInfo) -> str:
    default = share_text(field.default) if isinstance(field.default, Fraction) else field.default
    unless = "" if field.is_required() or default is None else f" ({default} unless given)"
    meant = " ".join((field.description or "").split())
    return f"For {method}{unless}{f': {meant}' if meant else '.'}"
