from __future__ import annotations

from prune2vec.planning.planner import planners, prefix


def test_the_methods_of_the_issue_are_there() -> None:
    assert {"percent", "depth", "l3prune", "uniform", "keep-last"} <= set(planners.names())


def test_prefix() -> None:
    assert prefix(3, 8) == (0, 1, 2)
