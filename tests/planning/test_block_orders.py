"""Orders of dropping blocks, against ones written out, and sections that no order can be read from."""

from __future__ import annotations

from typing import Any

import pytest

from prune2vec.errors import PlanError, ProfileError
from prune2vec.planning.planner import Budget, make_plan
from tests.planning.made import made_profile

CURVE = [3.0, 2.0, 2.5, 1.5, 1.8]
BLOCK = [0.5, 0.1, 0.4, 0.1, 0.2]
SECTIONS: dict[str, dict[str, Any]] = {
    "redundancy": {"attention": BLOCK, "mlp": BLOCK, "block": BLOCK, "tokens": 9, "texts": "retrieval"},
    "magnitude": {"relative": BLOCK, "weight": [5.0, 4.0, 3.0, 2.0, 1.0], "tokens": 9},
    "ablation": {"order": [2, 0, 4], "loss": [1.5, 1.4, 1.6, 2.0]},
    "linear-fit": {"prefix": [0.4, 0.5, 0.7, 0.8, 1.0], "order": [2, 0, 4], "cosine": [1.0, 0.9, 0.65, 0.6], "texts": 9},
    "angular-distance": {
        # Of two blocks the runs from 1 and from 2 turn the state equally: the deeper one goes.
        "distance": [[0.3, 0.5, 0.6, 0.7, 0.8], [0.2, 0.3, 0.5, 0.6], [0.2, 0.3, 0.4], [0.1, 0.5], [0.4]],
        "texts": 3,
    },
}


def kept(method: str, layers: int, sections: dict[str, Any] = SECTIONS, **parameters: Any) -> tuple[int, ...]:
    return make_plan(made_profile(CURVE, sections=sections), method=method, layers=layers, **parameters).keep_layers


@pytest.mark.parametrize(
    ("method", "parameters", "orders"),
    [
        # The deeper of equals goes first.
        ("block-influence", {}, {4: (0, 1, 2, 4), 3: (0, 2, 4), 2: (0, 2), 1: (0,)}),
        ("magnitude", {}, {4: (0, 1, 2, 4), 3: (0, 2, 4), 2: (0, 2), 1: (0,)}),
        ("magnitude", {"by": "weight"}, {4: (0, 1, 2, 3), 2: (0, 1), 1: (0,)}),
        ("ablation", {}, {5: (0, 1, 2, 3, 4), 4: (0, 1, 3, 4), 3: (1, 3, 4), 2: (1, 3)}),
        # At three layers the first ones do better than what the search has left, and below two it has nothing.
        ("linear-fit", {}, {5: (0, 1, 2, 3, 4), 4: (0, 1, 3, 4), 3: (0, 1, 2), 2: (1, 3), 1: (0,)}),
        ("reverse", {}, {4: (1, 2, 3, 4), 1: (4,)}),
        ("angular", {}, {5: (0, 1, 2, 3, 4), 4: (0, 1, 2, 4), 3: (0, 1, 4), 2: (0, 1), 1: (0,)}),
    ],
)
def test_what_stays(method: str, parameters: dict[str, str], orders: dict[int, tuple[int, ...]]) -> None:
    assert {layers: kept(method, layers, **parameters) for layers in orders} == orders


def test_what_a_linear_layer_makes_of_either_cut_is_told() -> None:
    profile = made_profile(CURVE, sections=SECTIONS)
    notes = [make_plan(profile, method="linear-fit", layers=layers).notes for layers in (4, 1)]
    assert [one[-1].partition(": ")[2] for one in notes] == ["first layers 0.800, searched 0.900", "first layers 0.400"]


def test_a_random_cut_is_its_seeds_and_part_of_the_larger_ones() -> None:
    cuts = [set(kept("random", layers, seed=seed)) for seed in range(40) for layers in (4, 3, 2, 1)]
    assert all(cuts[place] > cuts[place + 1] for place in range(len(cuts)) if place % 4 != 3)
    assert kept("random", 2, seed=3) == kept("random", 2, seed=3)
    # Each layer goes first for about a fifth of the seeds.
    first = [next(iter(set(range(5)) - set(kept("random", 4, seed=seed)))) for seed in range(400)]
    assert all(50 < first.count(layer) < 110 for layer in range(5))


def test_an_order_that_ends_early_is_not_guessed_on() -> None:
    with pytest.raises(PlanError, match="down to 2 layers, so 1 cannot be kept; measure it with more rounds"):
        kept("ablation", 1)
    profile = made_profile(CURVE, sections=SECTIONS)
    with pytest.raises(PlanError, match="not even 2 layers, down to which"):
        make_plan(profile, method="ablation", budget=Budget(max_layers=1))
    # Of the admitted numbers of layers, 2 and 3, the curve is lower at 2.
    assert make_plan(profile, method="ablation", budget=Budget(max_layers=3)).keep_layers == (1, 3)


@pytest.mark.parametrize(
    ("method", "section", "value", "said"),
    [
        ("magnitude", "magnitude", {"relative": [1.0]}, "relative: expected 5 numbers"),
        ("magnitude", "magnitude", {"relative": [*BLOCK[:4], "x"]}, "expected 5 numbers"),
        ("ablation", "ablation", {"order": [1, 1]}, "expected different layers of 0 to 4"),
        ("ablation", "ablation", {"order": [7]}, "expected different layers of 0 to 4"),
        ("ablation", "ablation", {"order": 3}, "expected different layers of 0 to 4"),
        ("linear-fit", "linear-fit", {"order": [1], "prefix": BLOCK, "cosine": [1.0]}, "cosine: expected 2 numbers"),
        ("linear-fit", "linear-fit", {"order": [1], "prefix": [0.5], "cosine": [1.0, 0.9]}, "prefix: expected 5 numbers"),
        ("angular", "angular-distance", {"distance": [[0.1]]}, "expected 5 rows of distances"),
        ("angular", "angular-distance", {"distance": [[0.1]] * 5}, r"distance\[0\]: expected 5 numbers"),
    ],
)
def test_a_broken_section_is_named(method: str, section: str, value: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError, match=f"{section}: .*{said}.*measure it again"):
        kept(method, 3, {**SECTIONS, section: value})


@pytest.mark.parametrize("method", ["block-influence", "magnitude", "ablation", "linear-fit", "angular"])
def test_a_section_that_was_not_measured_is_asked_for(method: str) -> None:
    with pytest.raises(ProfileError, match="prune2vec profile --scorers"):
        kept(method, 3, {})
