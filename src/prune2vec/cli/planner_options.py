"""The parameters of all planners as one settings class, so that a new planner brings its own command-line options."""

from __future__ import annotations

import functools
import inspect
import operator
import re
import types
import typing
from typing import Any

from pydantic import Field, create_model

from prune2vec.planning.planner import planners
from prune2vec.settings import Settings

# Where planners disagree on a parameter's type, what is given is read as the first of these that takes it: depth 3 is a
# number, depth small a word. A planner that wants the other one refuses it.
_TRIED_FIRST = (int, float)


def planner_parameters() -> type[Settings]:
    """Return a settings class with every keyword of every registered planner; none is required here."""
    users: dict[str, list[str]] = {}
    kinds: dict[str, list[Any]] = {}
    for method in planners:
        hints = typing.get_type_hints(planners.get(method))
        meant = _explained(planners.get(method))
        for name, parameter in inspect.signature(planners.get(method)).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                users.setdefault(name, []).append(_described(method, parameter.default, meant.get(name, "")))
                kinds.setdefault(name, []).extend(_members(hints.get(name, str)))
    fields = {
        name: (
            _any_of(kinds[name]) | None,
            Field(default=None, description=" ".join(users[name])),
        )
        for name in sorted(kinds)
    }
    return typing.cast(type[Settings], create_model("PlannerParameters", __base__=Settings, **fields))  # type: ignore[call-overload]


def _members(kind: Any) -> list[Any]:
    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    return [part for part in parts if part is not type(None)]


def _any_of(kinds: list[Any]) -> Any:
    ordered = sorted(dict.fromkeys(kinds), key=_turn)
    if len(ordered) == 1:
        return ordered[0]
    return typing.Annotated[functools.reduce(operator.or_, ordered), Field(union_mode="left_to_right")]


def _turn(kind: Any) -> int:
    return _TRIED_FIRST.index(kind) if kind in _TRIED_FIRST else len(_TRIED_FIRST)


def _explained(planner: Any) -> dict[str, str]:
    """Return what a planner's docstring says of its parameters, under Args."""
    _, _, text = (inspect.getdoc(planner) or "").partition("\nArgs:\n")
    text = text.partition("\n\n")[0]
    entries = re.split(r"^    (?=\w+: )", text, flags=re.MULTILINE)
    found = (entry.partition(": ") for entry in entries if entry.strip())
    return {name.strip(): " ".join(meaning.split()) for name, _, meaning in found}


def _described(method: str, default: object, meant: str) -> str:
    unless = "" if default in (None, inspect.Parameter.empty) else f" ({default} unless given)"
    return f"For {method}{unless}{f': {meant}' if meant else '.'}"
