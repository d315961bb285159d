from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from prune2vec.errors import ConfigError, PlanError
from prune2vec.planning.depth_rules import count_key, sized
from prune2vec.planning.planner import make_plan, planners
from prune2vec.profiling.profile import Profile
from tests.experiments.small import LAYERS, profile_of

WHOLE = (
    "depth",
    "keep-last",
    "uniform",
    "block-influence",
    "magnitude",
    "ablation",
    "linear-fit",
    "reverse",
    "random",
    "angular",
)


@pytest.fixture
def profile() -> Profile:
    return profile_of()


def test_every_method_has_a_count_of_layers_or_none() -> None:
    own = {"l3prune", "percent"}
    found = {name: count_key(name) for name in planners.names() if name not in own}
    assert {name for name, key in found.items() if key is not None} == set(WHOLE)
    assert {name for name, key in found.items() if key is None} == {"drop", "effir"}
    for name in own:
        with pytest.raises(ConfigError, match="has sizes of its own; the method depth"):
            count_key(name)


@pytest.mark.parametrize(
    ("size", "layers"),
    [
        # The two basins of the curve.
        ("small", 3),
        ("large", 10),
        (5, 5),
        (Fraction(1, 2), 6),
        # 3.6 of 12, and half-way cases go up.
        (Fraction(3, 10), 4),
        (Fraction(1, 8), 2),
        (Fraction(1, 100), 1),
        (Fraction(1), LAYERS),
    ],
)
def test_sizes_are_counts_of_layers_or_as_many_parameters(profile: Profile, size: Any, layers: int) -> None:
    for method in ("depth", "random", "uniform", "reverse"):
        parameters, budget = sized(profile, method, size)
        assert budget == {}
        assert len(make_plan(profile, method=method, **parameters).keep_layers) == layers
    parameters, budget = sized(profile, "effir", size)
    assert (parameters, budget) == ({}, {"max_params": profile.shape.params(range(layers))})


def test_more_layers_than_there_are(profile: Profile) -> None:
    with pytest.raises(PlanError, match="depth 13 is not possible"):
        sized(profile, "depth", 13)
