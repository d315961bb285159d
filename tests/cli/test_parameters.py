"""A planner's keywords become command-line options, without a list of them anywhere."""

from __future__ import annotations

from prune2vec.cli.options import options_from
from prune2vec.cli.parameters import planner_parameters
from prune2vec.cli.section import Section
from prune2vec.planners import planners
from prune2vec.planners.make import planner_parameters as keywords_of


def test_every_keyword_of_every_planner_is_an_option() -> None:
    options = {option.name: option for option in options_from(Section("parameters", "Parameters", planner_parameters))}
    assert set(options) == {name for method in planners for name in keywords_of(method)}
    for method in planners:
        for name in keywords_of(method):
            assert method in (options[name].help or "")


def test_none_is_required_and_types_hold() -> None:
    parameters = planner_parameters()
    assert parameters.build({}, where="here").model_dump(exclude_unset=True) == {}
    given = parameters.build({"depth": "3", "percent": "20%"}, where="here").model_dump(exclude_unset=True)
    assert given == {"depth": 3, "percent": "20%"}
