"""Triplets and their digest."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.data.triplet import Triplet, digest_texts

ROW = Triplet(anchor="a", positive="p", negatives=("n",))


def test_texts_are_anchor_positive_negatives() -> None:
    assert Triplet(anchor="a", positive="p", negatives=("n", "m")).texts == ("a", "p", "n", "m")


def test_digest_depends_on_order() -> None:
    other = replace(ROW, anchor="b")
    assert digest_texts([ROW, other]) != digest_texts([other, ROW])


def test_digest_depends_on_every_part_of_the_content() -> None:
    changed = [
        replace(ROW, anchor="x"),
        replace(ROW, positive="x"),
        replace(ROW, negatives=("x",)),
        replace(ROW, dataset="x"),
        replace(ROW, scores=(1.0, 0.5)),
    ]
    assert len({digest_texts([row]) for row in [ROW, *changed]}) == 6


def test_digest_ignores_where_the_row_stood() -> None:
    assert digest_texts([ROW]) == digest_texts([replace(ROW, line=7, group="g")])


@given(st.lists(st.text(), min_size=4, max_size=4), st.lists(st.text(), min_size=4, max_size=4))
def test_digests_are_equal_only_for_equal_texts(one: list[str], other: list[str]) -> None:
    rows = [Triplet(anchor=a, positive=p, negatives=(n,), dataset=d) for a, p, n, d in (one, other)]
    assert (digest_texts(rows[:1]) == digest_texts(rows[1:])) == (one == other)
