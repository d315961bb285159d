"""Options made from settings classes: every kind of field, and the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import BeforeValidator, Field

from prune2vec.cli.app import VERBS, program
from prune2vec.cli.options import GroupedOption, Listed, OptionGroup, SourceName, SourceNames, options_from
from prune2vec.cli.verb import Outcome, Verb, verb
from prune2vec.errors import DataError
from prune2vec.planning.vocabulary import VocabularyOptions
from prune2vec.settings import Settings

Doubled = Annotated[int, BeforeValidator(lambda value: int(value) * 2)]


class Every(Settings):
    """One field of each kind."""

    count: int = Field(3, ge=1)
    """How many."""
    share: float = 0.5
    """What part."""
    word: str = ""
    """Any text."""
    kind: Literal["red", "dark-blue"] = "red"
    """A choice."""
    maybe_kind: Literal["a", "b"] | None = None
    """A choice or nothing."""
    switch: bool = True
    """On or off."""
    dims: tuple[int, ...] = ()
    """Numbers."""
    targets: str | tuple[str, ...] = "all"
    """A word or several."""
    percent: float | str = "30%"
    """A number or a text."""
    amount: Doubled | None = None
    """Read by the class itself."""
    source: Path | None = None
    """A file that is there."""


@pytest.fixture
def every() -> Verb:
    @verb(example="every", sections=[OptionGroup("settings", "Every", lambda: Every)], writes=False)
    def every(settings: Every) -> Outcome:
        """Show the settings."""
        return Outcome("done", settings.model_dump(mode="json", exclude_unset=True))

    return every


def read(command: Verb, *words: str) -> Any:
    import json

    result = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_what_is_not_given_is_not_set(every: Verb) -> None:
    assert read(every) == {}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--count", "5"], {"count": 5}),
        (["--share", "0.25"], {"share": 0.25}),
        (["--word", ""], {"word": ""}),
        (["--kind", "dark-blue"], {"kind": "dark-blue"}),
        (["--maybe-kind", "b"], {"maybe_kind": "b"}),
        (["--no-switch"], {"switch": False}),
        (["--switch"], {"switch": True}),
        (["--dims", "64,128"], {"dims": [64, 128]}),
        (["--targets", "all-linear"], {"targets": "all-linear"}),
        (["--targets", "q,v"], {"targets": ["q", "v"]}),
        (["--percent", "20%"], {"percent": "20%"}),
        (["--amount", "21"], {"amount": 42}),
    ],
)
def test_every_kind_of_field(every: Verb, words: list[str], value: dict[str, Any]) -> None:
    assert read(every, *words) == value


def test_paths_must_be_there(every: Verb, tmp_path: Path) -> None:
    assert read(every, "--source", str(tmp_path)) == {"source": str(tmp_path)}
    with pytest.raises(DataError, match="does not exist"):
        read(every, "--source", str(tmp_path / "absent"))


def test_help_has_docstring_and_default() -> None:
    options = {option.name: option.help or "" for option in options_from(OptionGroup("settings", "Every", lambda: Every))}
    assert options["count"] == "How many.  [default: 3]"
    assert options["switch"].endswith("[default: on]")
    assert options["amount"] == "Read by the class itself."


def test_options_keep_the_order_of_the_fields() -> None:
    options = options_from(OptionGroup("settings", "Every", lambda: Every))
    assert [option.name for option in options] == list(Every.model_fields)
    assert all(isinstance(option, GroupedOption) for option in options)


def test_a_wrong_value_is_refused_by_the_class(every: Verb) -> None:
    from prune2vec.errors import ConfigError

    with pytest.raises(ConfigError, match=r"dims\.1.*got 'x'"):
        CliRunner().invoke(every, ["--dims", "1,x"], catch_exceptions=False)


def test_a_number_beyond_its_limits_is_a_usage_error(every: Verb) -> None:
    with pytest.raises(click.BadParameter, match=r"0 is not in the range x>=1"):
        every.main(["--count", "0"], standalone_mode=False)


def test_a_wrong_type_is_a_usage_error(every: Verb) -> None:
    with pytest.raises(click.BadParameter):
        every.main(["--count", "many"], standalone_mode=False)


def test_a_key_for_experts_is_read_from_a_file_alone(tmp_path: Path) -> None:
    @verb(example="few", sections=[OptionGroup("settings", "Few", lambda: Every, only_config="count share")], writes=False)
    def few(settings: Every) -> Outcome:
        """Show the settings."""
        return Outcome("done", settings.model_dump(mode="json", exclude_unset=True))

    (tmp_path / "few.yaml").write_text("count: 7\n", encoding="utf-8")
    assert read(few, "--config", str(tmp_path / "few.yaml")) == {"count": 7}
    with pytest.raises(click.UsageError, match="--count is no option; write count into a YAML file and give it with --config"):
        few.main(["--count", "7"], standalone_mode=False)
    told = CliRunner().invoke(few, ["--help"]).output
    assert "--count" not in told
    assert "Only in a --config file:\n  count, share" in told


@pytest.mark.parametrize("name", VERBS)
def test_every_device_is_an_option_that_takes_a_card_by_number(name: str) -> None:
    command: Any = program.get_command(None, name)  # type: ignore[arg-type]
    for option in command.section_options:
        assert not set(option.section.only_config.split()) - set(option.section.load().model_fields)
        if option.name == "device":
            assert option.type.convert("cuda:1", option, None) == "cuda:1"
            assert option.section.load().model_validate({"device": "cuda:1"}).model_dump()["device"] == "cuda:1"


def test_there_are_few_enough_options_to_read_about() -> None:
    common = {"config", "output", "dry_run", "json", "quiet", "debug", "_click_default_help"}
    context = click.Context(program)
    commands: list[Any] = [program.get_command(context, name) for name in VERBS]
    options = [one for command in commands for one in command.get_params(context) if isinstance(one, click.Option)]
    assert sum(not one.hidden and one.name not in common for one in options) <= 150


def test_a_name_keeps_the_dot_that_makes_it_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "docstrings").mkdir()
    kind = SourceName("source")
    for word, wanted in (("./docstrings", "./docstrings"), ("docstrings", "docstrings"), ("owner/name", "owner/name")):
        assert kind.convert(word, None, None) == wanted
    assert kind.convert("~/docstrings", None, None) == str(tmp_path / "docstrings")


def test_several_names_are_separated_by_commas_unless_the_whole_is_a_path(tmp_path: Path) -> None:
    one, both = tmp_path / "one.jsonl", tmp_path / "one.jsonl,two.jsonl"
    one.touch()
    kind = SourceNames("path")
    assert kind.convert(f"{one}, owner/name", None, None) == (str(one), "owner/name")
    assert kind.convert(str(one), None, None) == (str(one),)
    with pytest.raises(DataError, match=r"two\.jsonl does not exist"):
        kind.convert(f"{one},{tmp_path / 'two.jsonl'}", None, None)
    (tmp_path / "one.jsonl,two.jsonl").touch()
    assert kind.convert(str(both), None, None) == (str(both),)
    assert Listed(or_word=False).convert(str(both), None, None) == [str(both)]
    options = VocabularyOptions.build({"texts": both, "vocabulary": 300}, where="here")
    assert options.texts == (str(both),)
    assert VocabularyOptions.build({"texts": "a, b"}, where="here").texts == ("a", "b")
