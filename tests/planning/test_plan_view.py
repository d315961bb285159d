from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from prune2vec.models.shape import _NEURONS, _PARTS
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import layer_ranges, plan_figures, render_plan
from prune2vec.planning.planner import make_plan
from tests.planning.made import curve_with_minima, made_profile, made_shape


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


def made(**changes: Any) -> PruningPlan:
    given = {"model": {"name": "made"}, "shape": made_shape(6), "keep_layers": (0, 1, 2, 3, 5), "method": "test", **changes}
    return PruningPlan(**given)


def test_sub_layers_and_a_width_that_is_still_to_be_cut_are_shown() -> None:
    plan = made(drop_attention=(3,), drop_mlp=(1, 2, 5), width_cut=Fraction(3, 10))
    figures = plan_figures(plan)
    assert figures["attention"] == {"before": 6, "after": 4} and figures["mlps"] == {"before": 6, "after": 2}
    # Of two MLPs of 60 neurons, 36 go.
    assert figures["neurons"] == {"before": 360, "after": 84}
    assert figures["params"]["after"] == plan.shape.params(plan.kept) == 5032 + 5 * 1000 + 11 - 333 - (3 * 667 + 8) - 36 * 10
    assert figures["flops_per_token"]["after"] == plan.shape.flops_per_token(plan.kept)
    assert figures["memory_bytes"]["after"] == plan.shape.memory_bytes(plan.kept)
    assert figures["params_proportional"]["after"] == plan.shape.proportional_params(5)
    text = render_plan(plan)
    assert "drops    attention of 3\n" in text and "drops    MLP of 1-2, 5\n" in text
    assert "width    30% of the remaining MLPs' neurons, still to be cut with prune2vec slim\n" in text
    assert re.search(r"attention +6 +4 +66\.7%", text)
    assert re.search(r"MLPs +6 +2 +33\.3%", text)
    assert re.search(r"neurons of all MLPs +360 +84 +23\.3%", text)


def test_widths_that_were_decided_are_shown_from_the_narrowest_to_the_widest() -> None:
    plan = made(drop_mlp=(1,), neurons={0: tuple(range(20)), 2: tuple(range(10, 55))})
    figures = plan_figures(plan)
    assert figures["mlp_width"] == {"before": [60, 60], "after": [20, 60]}
    assert figures["neurons"] == {"before": 360, "after": 20 + 45 + 60 + 60}
    assert figures["params"]["after"] == plan.shape.params(plan.kept)
    text = render_plan(plan)
    assert "width    20 to 60 of 60 neurons an MLP\n" in text and "slim" not in text


def test_whole_blocks_have_no_rows_for_their_insides() -> None:
    text = render_plan(made())
    assert not re.search(r"attention|MLP|neurons|width", text)


def test_a_model_of_unknown_parts_is_shown_as_before() -> None:
    shape = replace(made_shape(6), **{name: () for name in (*_PARTS, *_NEURONS)})
    plan = made(shape=shape)
    assert {"neurons", "mlp_width"}.isdisjoint(plan_figures(plan))
    assert render_plan(plan) == render_plan(made())


def test_notes_are_shown() -> None:
    plan = make_plan(made_profile([4.0, 3.0, 2.0, 1.0]), variant="large")
    assert f"note     {plan.notes[0]}" in render_plan(plan)
