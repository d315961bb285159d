from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import PlanError
from prune2vec.planning.drop_spec import DropPart, parse_drop_spec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("8M", [("M", 8, False)]),
        ("16a", [("A", 16, False)]),
        ("last16B", [("B", 16, True)]),
        ("LAST 50 %b", [("B", Fraction(1, 2), True)]),
        ("8J", [("J", 8, False)]),
        ("16M8A", [("M", 16, False), ("A", 8, False)]),
        ("8A+16M", [("M", 16, False), ("A", 8, False)]),
        ("12.5%M, 4B", [("B", 4, False), ("M", Fraction(1, 8), False)]),
        ("0M", [("M", 0, False)]),
        ("100%A", [("A", Fraction(1), False)]),
    ],
)
def test_the_words_of_the_papers_tables(text: str, parts: list[tuple[str, int | Fraction, bool]]) -> None:
    assert parse_drop_spec(text) == tuple(DropPart(kind=kind, amount=amount, last=last) for kind, amount, last in parts)


amounts = st.one_of(st.integers(0, 99), st.integers(0, 1000).map(lambda tenths: Fraction(tenths, 1000)))
part = st.builds(lambda kind, amount, last: DropPart(kind=kind, amount=amount, last=last), st.just("M"), amounts, st.booleans())


@given(part, amounts)
def test_what_is_written_is_read_back(mlps: DropPart, attentions: int | Fraction) -> None:
    parts = (mlps, DropPart(kind="A", amount=attentions))
    assert parse_drop_spec("".join(map(str, parts))) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a count or share"),
        ("8", "expected a count or share"),
        ("8X", "expected a count or share"),
        ("8M last", "expected a count or share"),
        ("-8M", "expected a count or share"),
        ("M8", "did you mean 8M?"),
        ("0.5M", "did you mean 50%M?"),
        ("8M4M", "MLPs are named twice"),
        ("8Blast4B", "blocks are named twice"),
        ("8J8A", "J already ranks"),
        ("last8J", "last8J has no meaning"),
        ("120%M", "120%M is more than all of them"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse_drop_spec(text)
    assert str(caught.value).startswith("what: ") and message in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(0, 100), st.integers(1, 200))
def test_shares_are_rounded_down_exactly(percent: int, total: int) -> None:
    (part,) = parse_drop_spec(f"{percent}%A")
    assert part.count_of(total) == total * percent // 100


def test_more_than_there_is_names_the_most() -> None:
    with pytest.raises(PlanError, match=r"^9M: there are 8 MLPs; drop at most 7M$"):
        DropPart(kind="M", amount=9).count_of(8, leave=1)
    with pytest.raises(PlanError, match=r"^100%B: there are 8 blocks, of which 1 must stay; drop at most 7B$"):
        DropPart(kind="B", amount=Fraction(1)).count_of(8, leave=1)
    with pytest.raises(PlanError, match=r"^2A: there is 1 attention; drop at most 1A$"):
        DropPart(kind="A", amount=2).count_of(1)
    assert DropPart(kind="A", amount=8).count_of(8) == 8


@pytest.mark.parametrize(("kind", "one"), [("M", "MLP"), ("B", "block")])
def test_of_one_none_can_go(kind: str, one: str) -> None:
    with pytest.raises(PlanError, match=rf"^2{kind}: the only {one} must stay; leave 2{kind} out, or keep more layers$"):
        DropPart(kind=kind, amount=2).count_of(1, leave=1)
    assert DropPart(kind=kind, amount=0).count_of(1, leave=1) == 0
