"""Every number in every settings class has a least and a largest value; a new field cannot lack them."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest

import prune2vec
from prune2vec.cli.app import VERBS, program
from prune2vec.cli.options import GroupedOption
from prune2vec.errors import ConfigError
from prune2vec.settings import Settings

BEYOND = (float("inf"), float("-inf"), float("nan"), 2**70, -(2**70), 1e300, True, "9" * 5000)


@functools.cache
def every_class() -> list[type[Settings]]:
    """Return the settings classes of the package, wherever they are."""
    for module in pkgutil.walk_packages(prune2vec.__path__, "prune2vec."):
        if module.name.endswith(("settings", ".mine_negatives", ".recipe", ".recipe_variant", ".planner")):
            importlib.import_module(module.name)

    def below(kind: type[Settings]) -> Iterator[type[Settings]]:
        for child in kind.__subclasses__():
            if child.__module__.startswith("prune2vec.") and child.__name__ != "PlannerParameters":
                yield child
                yield from below(child)

    return list(dict.fromkeys(below(Settings)))


def has_number(schema: Any) -> bool:
    if isinstance(schema, list):
        return any(map(has_number, schema))
    return isinstance(schema, dict) and (
        schema.get("type") in ("integer", "number")
        or any(has_number(value) for key, value in schema.items() if key in ("anyOf", "items", "prefixItems", "oneOf"))
    )


def numbers() -> list[tuple[type[Settings], str, bool]]:
    """Return class, field and whether it is a list, of each field that takes a number."""
    found = []
    for kind in every_class():
        for name, schema in kind.model_json_schema(by_alias=False).get("properties", {}).items():
            if has_number(schema):
                found.append((kind, name, schema.get("type") == "array"))
    return found


REQUIRED: dict[str, dict[str, Any]] = {"RecipeVariant": {"name": "one", "method": "full"}}


def test_all_classes_with_numbers_are_seen() -> None:
    seen = {kind.__name__ for kind, _, _ in numbers()}
    assert seen >= {"ProfileSettings", "TrainSettings", "SlimSettings", "EncodeSettings", "SearchSettings", "Budget", "Mine"}
    assert len(numbers()) > 80


@pytest.mark.parametrize(("kind", "name", "several"), numbers(), ids=lambda part: getattr(part, "__name__", str(part)))
def test_a_number_that_no_run_could_end_with_is_refused(kind: type[Settings], name: str, several: bool) -> None:
    for value in BEYOND:
        with pytest.raises(ConfigError, match=f"^here: {name}") as caught:
            kind.build({**REQUIRED.get(kind.__name__, {}), name: [value] if several else value}, where="here")
        assert "\n" not in str(caught.value)


def test_a_field_without_bounds_would_be_seen() -> None:
    class Lax(Settings):
        """A class as it must not be."""

        count: int = 1
        """How many."""

    assert has_number(Lax.model_json_schema(by_alias=False)["properties"]["count"])
    assert Lax.build({"count": 2**70}, where="here").count == 2**70


@pytest.mark.parametrize("name", VERBS)
def test_options_say_their_range(name: str) -> None:
    verb: Any = program.get_command(None, name)  # type: ignore[arg-type]
    fields = {(kind, name) for kind, name, several in numbers() if not several}
    for option in verb.section_options:
        assert isinstance(option, GroupedOption)
        kind = option.section.load()
        plain = kind.model_fields[str(option.name)].annotation if (kind, option.name) in fields else None
        if plain in (int, float, int | None, float | None) and option.type.name != "text":
            assert getattr(option.type, "min", None) is not None and getattr(option.type, "max", None) is not None, option.name
