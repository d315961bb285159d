"""The summary against hand counts."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prune2vec.data.summary import Lengths, summarise
from prune2vec.data.triplet import Skipped, Triplet

ROW = Triplet(anchor="ab cd", positive="x y z", negatives=("n", "n n"), dataset="one")


def test_counts() -> None:
    rows = [ROW, ROW, replace(ROW, anchor="other", dataset="two"), replace(ROW, positive=" ")]
    summary = summarise(rows, skipped=Skipped(empties=2))
    assert (summary.rows, summary.duplicates, summary.empties) == (3, 1, 3)
    assert summary.datasets == {"one": 2, "two": 1}
    assert summary.unit == "characters"
    assert summary.lengths["anchor"] == Lengths(texts=3, median=5, p95=5, longest=5)
    assert summary.lengths["negative"].texts == 6


def test_lengths_in_tokens_and_texts_beyond_the_context() -> None:
    summary = summarise([ROW], count_tokens=lambda text: len(text.split()), limit=2)
    assert summary.unit == "tokens"
    assert [summary.lengths[part].longest for part in ("anchor", "positive", "negative")] == [2, 3, 2]
    assert summary.truncated == 1
    assert "1 texts are longer than 2 tokens" in summary.render()


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_ranks_are_the_least_values_covering_their_share(sizes: list[int]) -> None:
    lengths = summarise([Triplet(anchor="x" * size, positive="p") for size in sizes]).lengths["anchor"]
    for value, share in ((lengths.median, 0.5), (lengths.p95, 0.95)):
        assert sum(size <= value for size in sizes) >= share * len(sizes) - 1e-9
        assert sum(size < value for size in sizes) < share * len(sizes) + 1e-9
    assert lengths.longest == max(sizes)


def test_rendering_is_a_short_table() -> None:
    rows = [replace(ROW, dataset=f"set{n:02d}") for n in range(25)]
    lines = summarise(rows).render().splitlines()
    assert lines[0] == "25 rows, 24 duplicates, 0 with an empty text"
    assert lines[2].split() == ["anchor", "25", "5", "5", "5"]
    assert lines[-1].split() == ["5", "more", "data", "sets", "5"]


def test_nothing_at_all_can_be_summarised() -> None:
    summary = summarise([])
    assert summary.lengths == {}
    assert summary.render().startswith("0 rows")
    assert summary.to_json()["rows"] == 0
