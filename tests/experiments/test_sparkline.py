from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.experiments.sparkline import sparkline


def test_lowest_and_highest_get_the_ends_of_the_scale() -> None:
    assert sparkline([0, 7]) == "▁█"
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"


def test_flat_and_empty() -> None:
    assert sparkline([]) == ""
    assert sparkline([2.0, 2.0]) == "▅▅"


def test_values_that_are_not_finite_leave_a_gap() -> None:
    assert sparkline([0.0, math.nan, 1.0, math.inf]) == "▁ █ "
    assert sparkline([math.nan]) == " "


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_one_bar_a_value_and_order_kept(values: list[float]) -> None:
    bars = sparkline(values)
    assert len(bars) == len(values)
    assert all(bars[i] <= bars[j] for i, a in enumerate(values) for j, b in enumerate(values) if a <= b)
