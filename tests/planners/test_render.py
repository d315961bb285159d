from __future__ import annotations

import re

import pytest

from prune2vec.planners import make_plan, plan_figures, render_plan
from prune2vec.planners.render import layer_ranges
from tests.planners.made import curve_with_minima, made_profile


@pytest.mark.parametrize(
    ("layers", "text"),
    [((0,), "0"), ((0, 1, 2, 5), "0-2, 5"), ((0, 4, 8), "0, 4, 8"), ((0, 1), "0-1"), ((3, 4, 7, 8, 9), "3-4, 7-9")],
)
def test_ranges(layers: tuple[int, ...], text: str) -> None:
    assert layer_ranges(layers) == text


def test_the_figures_are_the_shapes() -> None:
    plan = make_plan(made_profile([1.0] * 4), method="depth", depth=2)
    figures = plan_figures(plan, length=9)
    whole = 5000 + 32 + 4000 + 6
    assert figures["layers"] == {"before": 4, "after": 2}
    assert figures["params"] == {"before": whole, "after": 5000 + 32 + 2001}
    assert figures["params_proportional"] == {"before": whole, "after": whole // 2}
    after = 2 * (936 + 937) + 2 * 2 * 10 * 32
    assert figures["flops_per_token"] == {"before": after + 2 * (938 + 939) + 2 * 2 * 10 * 32, "after": after, "length": 9}
    assert figures["predicted_speedup"] == figures["flops_per_token"]["before"] / after


def test_the_table_names_model_method_layers_and_notes() -> None:
    plan = make_plan(made_profile(curve_with_minima(8, 2, 6)), variant="small")
    text = render_plan(plan)
    assert "model    made\n" in text
    assert "method   l3prune (variant small)\n" in text
    assert "keeps    0-1 of 0-7\n" in text
    assert re.search(r"layers +8 +2 +25\.0%", text)
    assert re.search(r"parameters +13\.06 k +7\.03 k +53\.9%", text)
    assert re.search(r"speed, from FLOPs +1\.00x +4\.00x", text)
    assert max(map(len, text.splitlines())) < 100


def test_notes_are_shown() -> None:
    plan = make_plan(made_profile([4.0, 3.0, 2.0, 1.0]), variant="large")
    assert f"note     {plan.notes[0]}" in render_plan(plan)
