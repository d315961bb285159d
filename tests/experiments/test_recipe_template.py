from __future__ import annotations

from pathlib import Path

import yaml

from prune2vec.experiments.recipe import Recipe, init_recipe
from prune2vec.settings import Settings


def test_loads_as_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(init_recipe(), encoding="utf-8")
    assert Recipe.load(path) == Recipe()


def test_every_setting_is_there_with_its_docstring() -> None:
    text = init_recipe()
    words = " ".join(text.replace("#", " ").split())
    for name, field in fields(Recipe()):
        assert name.replace("_", "-") + ":" in text
        assert field, name
        assert " ".join(field.split()) in words, name


def fields(settings: Settings) -> list[tuple[str, str]]:
    found = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        found.append((name, field.description or ""))
        found += fields(value) if isinstance(value, Settings) else []
    hidden = {"restart"}
    return [(name, text) for name, text in found if name not in hidden and (name, text) not in nested_model_settings()]


def nested_model_settings() -> list[tuple[str, str]]:
    """Revision and trust of single stages: a recipe gives them once, at the top."""
    recipe = Recipe()
    shared = ("revision", "trust_remote_code")
    return [
        (name, type(part).model_fields[name].description or "") for part in (recipe.profile, recipe.prune) for name in shared
    ]


def test_no_line_is_very_long_and_every_comment_is_a_comment() -> None:
    for line in init_recipe().splitlines():
        assert len(line) <= 115
    assert yaml.safe_load(init_recipe())["variants"][1] == {
        "name": "large",
        "method": "l3prune",
        "parameters": {"variant": "large"},
    }
