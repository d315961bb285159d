from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ProfileError
from prune2vec.planning.cut_loss_table import CutLoss
from prune2vec.profiling.profile import Profile
from tests.planning.made import made_profile

SECTION: dict[str, Any] = {
    "mlp_order": [3, 1, 2, 0],
    "drops": [0, 2, 3],
    "drop_loss": [[4.0, 3.0, 2.0, 1.0], [4.0, 3.4, 2.6, 2.0], [4.0, 3.4, 3.4, 3.2]],
    "width_cuts": ["0", "1/10", "1/2"],
    "width_loss": [[4.1, 3.1, 2.1, 1.1], [4.2, 3.2, 2.2, 1.4], [4.4, 3.5, 2.6, 2.1]],
}


def measured(**changes: Any) -> Profile:
    return made_profile([4.0, 3.0, 2.0, 1.0], sections={"cut-loss": {**SECTION, **changes}})


GUIDE = CutLoss.of(measured())


def test_measured_points_are_returned_as_they_are() -> None:
    # Of the first two MLPs of the order, layer 3 and layer 1, depths 4, 3 and 2 hold 2, 1 and 1.
    assert GUIDE.whole == 1.0
    assert [GUIDE.predicted(4, mlps, Fraction(0)) for mlps in (0, 2, 3)] == [1.0, 2.0, 3.2]
    assert [GUIDE.predicted(3, mlps, Fraction(0)) for mlps in (0, 1, 2)] == [2.0, 2.6, 3.4]
    assert [GUIDE.predicted(2, mlps, Fraction(0)) for mlps in (0, 1)] == [3.0, 3.4]
    assert GUIDE.predicted(1, 0, Fraction(0)) == 4.0


def test_between_the_points_it_is_linear_and_beyond_them_unknown() -> None:
    assert GUIDE.predicted(4, 1, Fraction(0)) == pytest.approx(1.5)
    assert GUIDE.predicted(4, 0, Fraction(3, 10)) == pytest.approx(1.0 + (0.3 + 1.0) / 2)
    assert GUIDE.predicted(4, 4, Fraction(0)) is None
    assert GUIDE.predicted(1, 1, Fraction(0)) is None
    assert GUIDE.predicted(4, 0, Fraction(6, 10)) is None
    assert [GUIDE.at(depth).most_mlps for depth in (1, 2, 3, 4)] == [0, 1, 2, 3]


def test_the_width_costs_what_it_costs_over_no_cut_for_the_share_of_mlps_that_is_left() -> None:
    assert GUIDE.predicted(4, 0, Fraction(1, 2)) == pytest.approx(1.0 + 1.0)
    assert GUIDE.predicted(4, 2, Fraction(1, 2)) == pytest.approx(2.0 + 1.0 * 2 / 4)
    assert GUIDE.predicted(3, 2, Fraction(1, 10)) == pytest.approx(3.4 + 0.1 * 1 / 3)


@given(mlps=st.integers(0, 3), tenths=st.integers(0, 50))
def test_the_prediction_stays_between_its_neighbours(mlps: int, tenths: int) -> None:
    width = Fraction(tenths, 100)
    least, most = GUIDE.predicted(4, mlps, Fraction(0)), GUIDE.predicted(4, mlps, Fraction(1, 2))
    found = GUIDE.predicted(4, mlps, width)
    assert least is not None and most is not None and found is not None
    assert least - 1e-12 <= found <= most + 1e-12


def test_another_order_is_seen_where_it_matters() -> None:
    assert GUIDE.was_measured_in((3, 1, 2, 0), 4, 4)
    assert GUIDE.was_measured_in((1, 3, 2, 0), 3, 2), "layer 3 is not there"
    assert GUIDE.was_measured_in((3, 1, 0, 2), 4, 2), "only two MLPs go"
    assert not GUIDE.was_measured_in((1, 3, 2, 0), 4, 1)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"drops": [1, 2, 3]}, "the drop points do not ascend from 0"),
        ({"drops": [0, 2, 2]}, "the drop points do not ascend from 0"),
        ({"drops": [0, 2, 5]}, "more MLPs dropped than mlp_order names"),
        ({"drops": [0, 2]}, "drop_loss is not 2 rows of 4 depths"),
        ({"drop_loss": [[1.0] * 3] * 3}, "drop_loss is not 3 rows of 4 depths"),
        ({"width_cuts": ["1/10", "1/5", "1/2"]}, "the width points do not ascend from 0"),
        ({"width_cuts": ["0", "a", "1/2"]}, "Invalid literal"),
        (
            {"width_loss": [[1.0] * 4, [1.0] * 4, [1.0, "much", 1.0, 1.0]]},
            'width_loss.2.1: input should be a valid number, got "much"',
        ),
        ({"mlp_order": [3, 1, 1, 0]}, "mlp_order is no order of layers 0 to 3"),
        ({"mlp_order": [3, 1, 4, 0]}, "mlp_order is no order of layers 0 to 3"),
        ({"drop_loss": 3}, "drop_loss: input should be a valid array, got 3"),
    ],
)
def test_a_broken_section_is_one_line(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProfileError) as caught:
        CutLoss.of(measured(**changes))
    assert str(caught.value).startswith("broken cut-loss section (") and problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_section_that_was_not_measured_says_how_to() -> None:
    with pytest.raises(ProfileError, match=r"measure it with prune2vec profile --scorers cut-loss$"):
        CutLoss.of(made_profile([1.0, 2.0], sections={}))
