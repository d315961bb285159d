"""The commented recipe that ``prune2vec init`` writes; its comments are the settings' own docstrings."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import yaml

from prune2vec.experiments.recipe import ABOUT_MODEL, Recipe
from prune2vec.experiments.recipe_variant import RecipeVariant
from prune2vec.experiments.yaml_file import dashed
from prune2vec.settings import Settings

_WIDTH = 110
# Given once at the top, or decided by the run itself.
_HIDDEN = (*ABOUT_MODEL, "restart")
_HEAD = """\
# A recipe for prune2vec: profile a model, choose cuts, then prune, train and evaluate each.
#
#     prune2vec run recipe.yaml -o runs/first
#
# Every setting is here with its default; what you delete keeps its default. Relative paths start from this file's
# folder. A run skips what has not changed, so the same command goes on after an interruption or an edit.
"""


def init_recipe() -> str:
    """Return a valid, commented recipe that holds every default."""
    return "\n".join([_HEAD, *_settings(Recipe(), indent="", skip=())]) + "\n"


def _settings(settings: Settings, *, indent: str, skip: tuple[str, ...]) -> list[str]:
    lines: list[str] = []
    fields = type(settings).model_fields
    own = type(settings).__annotations__
    for name in sorted(set(fields) - set(skip), key=lambda name: (name not in own, list(fields).index(name))):
        lines += _comment(fields[name].description or "", indent)
        lines += _value(name.replace("_", "-"), getattr(settings, name), indent)
        lines += [""] if not indent else []
    return lines


def _value(key: str, value: Any, indent: str) -> list[str]:
    if isinstance(value, Settings):
        return [f"{indent}{key}:", *_settings(value, indent=indent + "  ", skip=_HIDDEN)]
    if value and isinstance(value, tuple) and isinstance(value[0], RecipeVariant):
        about = [_comment(f"{name}: {field.description}", "  ") for name, field in RecipeVariant.model_fields.items()]
        shown = [f"{indent}  - {_flow(one.model_dump(mode='json', exclude_unset=True))}" for one in value]
        return [f"{indent}{key}:", *(line for lines in about for line in lines), *shown]
    return [f"{indent}{key}: {_flow(list(value) if isinstance(value, tuple) else value)}"]


def _comment(text: str, indent: str) -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _flow(value: Any) -> str:
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    text = yaml.safe_dump(dashed(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
