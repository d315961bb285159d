from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.experiments.plots import (
    color_of,
    inline_svg,
    profile_svg,
    sparkline,
)
from tests.experiments.small import profile_of

PICKS = {"full": 12, "large": 10, "small": 3}


def test_svg_is_the_same_every_time() -> None:
    assert profile_svg(profile_of(), PICKS) == profile_svg(profile_of(), PICKS)
    assert ElementTree.fromstring(profile_svg(profile_of(), PICKS)).tag == "{http://www.w3.org/2000/svg}svg"


def test_every_pick_is_drawn_in_its_colour() -> None:
    svg = profile_svg(profile_of(), PICKS)
    for place in range(len(PICKS)):
        assert color_of(place) in svg
    assert color_of(len(PICKS)) not in svg


def test_picks_of_one_depth_share_a_label() -> None:
    svg = profile_svg(profile_of(), {"full": 12, "large": 12})
    assert "full = large: 12" in svg  # matplotlib keeps the words in a comment beside their outlines
    assert color_of(1) not in svg


def test_of_many_picks_none_is_named_and_many_of_one_depth_are_counted() -> None:
    many = {f"cell-{n}": 1 + n % 6 for n in range(60)}
    assert "cell-" not in profile_svg(profile_of(), many)
    assert "60 variants: 7" in profile_svg(profile_of(), dict.fromkeys(many, 7))


def test_inline_svg_has_ids_of_its_own_and_no_address() -> None:
    svg = inline_svg(profile_svg(profile_of(), PICKS), prefix="p", label='a "label"')
    assert svg.startswith("<svg")
    assert "http" not in svg
    assert 'id="p-' in svg
    assert 'href="#p-' in svg
    assert 'href="#D' not in svg
    assert " width=" not in svg[: svg.index(">")]


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
