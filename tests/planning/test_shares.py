from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.planning.shares import amount_text, count_of, parse_count, parse_share, share_text


@pytest.mark.parametrize(
    ("given", "share"), [("30%", (3, 10)), (" 0.3 ", (3, 10)), (0.3, (3, 10)), ("12.5 %", (1, 8)), (0, (0, 1))]
)
def test_shares_are_exact(given: float | str, share: tuple[int, int]) -> None:
    assert parse_share(given) == Fraction(*share)


@pytest.mark.parametrize("given", ["100%", 1, "-1%", "a", "", "30%%", True])
def test_what_is_no_share_is_refused_in_one_line(given: float | str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_share(given)


@given(st.integers(0, 99), st.integers(0, 200))
def test_a_share_is_rounded_down_exactly(percent: int, total: int) -> None:
    assert count_of(parse_count(f"{percent}%"), total) == total * percent // 100
    assert parse_share(share_text(Fraction(percent, 100))) == Fraction(percent, 100)


@pytest.mark.parametrize(("given", "text"), [(8, "8"), ("8", "8"), ("50%", "50%"), (0.5, "50%"), ("0%", "0%"), (0, "0")])
def test_a_whole_number_is_a_count_and_the_rest_a_share(given: float | str, text: str) -> None:
    assert amount_text(parse_count(given)) == text


@pytest.mark.parametrize("given", [-1, "8.5", 2.0, True, "eight"])
def test_what_is_neither_is_refused(given: float | str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_count(given)
