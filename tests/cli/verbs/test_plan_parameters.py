"""A planner's keywords become command-line options, without a list of them anywhere."""

from __future__ import annotations

from typing import Literal

from prune2vec.cli.options import OptionGroup, options_from
from prune2vec.cli.verbs.plan import planner_parameters
from prune2vec.planning.planner import Planner, planners


def test_every_keyword_of_every_planner_is_an_option() -> None:
    options = {option.name: option for option in options_from(OptionGroup("parameters", "Parameters", planner_parameters))}
    assert set(options) == {name for method in planners for name in planners.get(method).model_fields}
    for method in planners:
        for name in planners.get(method).model_fields:
            assert method in (options[name].help or "")


def test_none_is_required_and_types_hold() -> None:
    parameters = planner_parameters()
    assert parameters.build({}, where="here").model_dump(exclude_unset=True) == {}
    given = parameters.build({"layers": "3", "percent": "20%"}, where="here").model_dump(exclude_unset=True)
    assert given == {"layers": 3, "percent": "20%"}


def test_a_parameter_that_two_planners_read_differently_is_left_to_the_planner() -> None:
    def read(**given: str) -> dict[str, object]:
        return planner_parameters().build(given, where="here").model_dump(exclude_unset=True)

    assert read(depth="small") == {"depth": "small"} and read(depth="12") == {"depth": "12"}
    assert read(mlps="8", width="30%") == {"mlps": "8", "width": "30%"}
    assert read(drop="8A16M", order="plain") == {"drop": "16M8A", "order": "plain"}


def test_the_help_says_what_each_planner_means_by_it() -> None:
    fields = planner_parameters().model_fields
    assert "For depth: A number of layers. For drop (all unless given): Layers that are kept" in (
        fields["depth"].description or ""
    )
    assert "as few MLPs go as fit it." in (fields["drop"].description or ""), "the last line of a longer text"
    for field in fields.values():
        text = field.description or ""
        assert "  " not in text and "\n" not in text and text.endswith("."), text


def test_kinds_of_any_sort_are_kept_whole() -> None:
    name = "odd-in-test-parameters"

    @planners.register(name)
    class Odd(Planner):
        """Do nothing."""

        odd_kind: Literal["one", "two"] = "one"
        odd_list: tuple[int, ...] = ()

    try:
        given = planner_parameters().build({"odd_kind": "two", "odd_list": ["1", "2"]}, where="here")
        assert given.model_dump(exclude_unset=True) == {"odd_kind": "two", "odd_list": (1, 2)}
        assert planner_parameters().model_fields["odd_kind"].description == f"For {name} (one unless given)."
    finally:
        planners._parts.pop(name)
