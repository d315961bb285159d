from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ProfileError
from prune2vec.models.kept import KINDS
from prune2vec.profiling.profile import Redundancy, most_redundant_first, rank_correlation

SECTION: dict[str, Any] = {
    "attention": [0.3, 0.1, 0.2],
    "mlp": [0.2, 0.1, 0.1],
    "block": [0.5, 0.0, 0.4],
    "tokens": 7,
    "texts": "retrieval",
}


def test_round_trip_and_orders() -> None:
    found = Redundancy.from_json(SECTION)
    assert json.loads(json.dumps(asdict(found))) == SECTION
    assert found.order("attention") == (1, 2, 0)
    assert found.order("mlp") == (2, 1, 0), "of equal ones the later goes first"
    assert found.row("block") == (0.5, 0.0, 0.4)
    assert Redundancy.from_json({**SECTION, "windows": 3}) == found


@given(st.lists(st.floats(0, 2), min_size=1, max_size=40))
def test_an_order_holds_every_layer_once_and_ascends(values: list[float]) -> None:
    order = most_redundant_first(dict(enumerate(values)))
    assert sorted(order) == list(range(len(values)))
    assert [values[layer] for layer in order] == sorted(values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp": None}, "broken redundancy section"),
        ({"mlp": ["a"]}, "broken redundancy section"),
        ({"tokens": "many"}, "broken redundancy section"),
        ({"mlp": [0.1]}, "rows of different length"),
        ({"block": [0.1, float("nan"), 0.2]}, r"broken redundancy section .block\.1: input should be a finite number"),
    ],
)
def test_a_broken_section_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message) as caught:
        Redundancy.from_json({**SECTION, **changes})
    assert "\n" not in str(caught.value)
    for kind in KINDS:
        with pytest.raises(ProfileError, match=f"broken redundancy section .{kind} is missing"):
            Redundancy.from_json({key: value for key, value in SECTION.items() if key != kind})


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1.0, 2.0, 3.0], [10.0, 20.0, 900.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 3, 4]) == pytest.approx(0.8)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3: 4.5 / sqrt(4.5 * 5)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([1.0, 1.0], [1.0, 2.0]) is None
    assert rank_correlation([1.0], [1.0]) is None
