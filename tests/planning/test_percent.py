from __future__ import annotations

import math
from fractions import Fraction

import pytest

from prune2vec.errors import PlanError
from prune2vec.planning.make_plan import make_plan
from prune2vec.planning.percent import depth_for_share
from prune2vec.planning.shares import parse_share
from tests.planning.made import made_profile


@pytest.mark.parametrize(
    ("layers", "percent", "kept"),
    [(10, 0.9, 1), (32, 0.3, 22), (32, 0.99, 1), (40, 0.9, 4), (30, 0.9, 3), (32, 0, 32), (1, 0.5, 1)],
)
def test_the_depths_where_floats_or_the_papers_code_go_wrong(layers: int, percent: float, kept: int) -> None:
    plan = make_plan(made_profile([1.0] * layers), method="percent", percent=percent)
    assert plan.keep_layers == tuple(range(kept))


def test_every_two_digit_percent_of_every_model_up_to_200_layers_is_the_exact_floor() -> None:
    for cents in range(100):
        shares = {parse_share(given, key="percent") for given in (f"{cents}%", cents / 100, f"0.{cents:02d}")}
        assert shares == {Fraction(cents, 100)}
        for layers in range(1, 201):
            assert depth_for_share(layers, Fraction(cents, 100)) == max(1, layers * (100 - cents) // 100)


def test_plain_floats_would_have_failed_the_property() -> None:
    wrong = [
        (layers, cents)
        for layers in range(1, 201)
        for cents in range(100)
        if math.floor(layers * (1 - cents / 100)) != layers * (100 - cents) // 100
    ]
    assert (10, 90) in wrong and len(wrong) > 100


@pytest.mark.parametrize("percent", ["100%", "1", 1, 30, "-5%", -0.1, "abc", "", "%", "nan", "inf", "1/0", None])
def test_what_is_no_share_is_refused_in_one_line(percent: object) -> None:
    with pytest.raises(PlanError, match=r"^percent: [^\n]+$"):
        make_plan(made_profile([1.0] * 4), method="percent", percent=percent)


def test_the_recorded_parameter_makes_the_same_plan_again() -> None:
    profile = made_profile([1.0] * 32)
    plan = make_plan(profile, method="percent", percent=0.3)
    assert plan.parameters == {"percent": "30%"}
    assert make_plan(profile, method="percent", **plan.parameters) == plan
