from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from prune2vec.errors import RENAMED, ConfigError
from prune2vec.settings import Settings


class Inner(Settings):
    """An inner group."""

    max_layers: int | None = Field(default=None, ge=1)
    """Most layers."""
    kind: Literal["mean", "last"] = "mean"
    """A choice."""


class Outer(Settings):
    """An outer group."""

    learning_rate: float = 1e-4
    """A rate."""
    name: str
    """A name."""
    inner: Inner = Inner()
    """A group."""
    maybe: Inner | None = None
    """A group or nothing."""
    several: tuple[Inner, ...] = ()
    """Groups."""

    @model_validator(mode="after")
    def _fits(self) -> Outer:
        if self.learning_rate > 1:
            raise ValueError("learning_rate is above 1; lower it")
        return self


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Outer.build({"name": "x", **values}, where="file.yaml")
    text = str(caught.value)
    assert text.startswith("file.yaml: ") and "\n" not in text
    assert isinstance(caught.value.__cause__, ValidationError) or "twice" in text
    return text.removeprefix("file.yaml: ")


def test_dashes_count_as_underscores_at_every_depth() -> None:
    values = {
        "learning-rate": 0.5,
        "name": "a-b",
        "inner": {"max-layers": 3},
        "maybe": {"max-layers": 4},
        "several": [{"max-layers": 5}],
    }
    built = Outer.build(values, where="test")
    assert (built.learning_rate, built.name, built.inner.max_layers) == (0.5, "a-b", 3)
    assert built.maybe is not None and built.maybe.max_layers == 4 and built.several[0].max_layers == 5


def test_a_key_given_both_ways_is_refused() -> None:
    assert (
        refused({"learning-rate": 1, "learning_rate": 2})
        == "key 'learning_rate' is given twice, with a dash and with an underscore"
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning-rat": 1}, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"zzzz": 1}, "unknown key 'zzzz'; known: inner, learning_rate, maybe, name, several"),
        ({"inner": {"max-layer": 1}}, "unknown key 'inner.max_layer'; did you mean 'max_layers'?"),
        ({"maybe": {"knd": 1}}, "unknown key 'maybe.knd'; did you mean 'kind'?"),
        ({"several": [{}, {"max-layer": 1}]}, "unknown key 'several.1.max_layer'; did you mean 'max_layers'?"),
    ],
)
def test_an_unknown_key_gives_the_close_match_of_its_own_group(values: dict[str, Any], message: str) -> None:
    assert refused(values) == message


def test_a_former_name_is_answered_with_todays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RENAMED, "most_layers", "max_layers")
    assert refused({"inner": {"most-layers": 1}}) == "unknown key 'inner.most_layers'; it is called 'max_layers' now"
    assert "it is called" not in refused({"most_layers": 1}), "today's name is unknown there too"


def test_keys_of_a_mapping_stay_as_they_are() -> None:
    class Named(Settings):
        """A mapping."""

        by_name: dict[str, int] = Field(default_factory=dict)
        """Numbers."""

    assert Named.build({"by-name": {"a-b": 1, "a_b": 2}}, where="here").by_name == {"a-b": 1, "a_b": 2}


def test_values_that_do_not_fit_are_shown() -> None:
    assert refused({"learning_rate": "fast"}).startswith("learning_rate: ") and "'fast'" in refused({"learning_rate": "fast"})
    assert refused({"inner": {"max_layers": 0}}).startswith("inner.max_layers: ")
    assert "'mean' or 'last', got 'men'" in refused({"inner": {"kind": "men"}})
    assert refused({"inner": 3}).endswith("got 3")


def test_a_missing_key_is_named_without_the_whole_file() -> None:
    with pytest.raises(ConfigError, match=r"^here: name is missing$"):
        Outer.build({"learning_rate": 0.5}, where="here")


def test_a_check_over_several_keys_is_shown_in_its_own_words() -> None:
    assert refused({"learning_rate": 2}) == "learning_rate is above 1; lower it"


def test_the_home_folder_stands_in_for_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Places(Settings):
        """Paths."""

        one: Path | None = None
        """A path."""
        some: tuple[str, ...] = ()
        """No paths."""

    monkeypatch.setenv("HOME", str(tmp_path))
    assert Places(one=Path("~/c.jsonl")).one == Places.build({"one": "~/c.jsonl"}, where="x").one == tmp_path / "c.jsonl"
    assert Places(some=("~",)).some == ("~",)
    assert Places().one is None


def test_a_path_stands_for_its_name(tmp_path: Path) -> None:
    class Places(Settings):
        """Places."""

        model: str = ""
        texts: tuple[str, ...] = ()
        folder: Path | None = None

    given = {"model": tmp_path, "texts": [tmp_path / "a", "b"], "folder": tmp_path}
    found = Places.build(given, where="here")
    assert found == Places(model=str(tmp_path), texts=(str(tmp_path / "a"), "b"), folder=tmp_path)


def test_settings_are_frozen_and_refuse_unknown_keys_when_built_directly() -> None:
    built = Outer(name="x")
    with pytest.raises(ValidationError):
        built.name = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Outer(name="x", other=1)  # type: ignore[call-arg]


def test_field_docstrings_are_descriptions() -> None:
    assert Outer.model_fields["learning_rate"].description == "A rate."
