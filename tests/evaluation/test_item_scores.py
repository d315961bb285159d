from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.evaluation.item_scores import ItemScores
from prune2vec.settings import adapter, read_as

SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(SINGLE, min_size=1, max_size=20))
def test_numbers_of_single_precision_come_back_as_they_were(values: list[float]) -> None:
    items = ItemScores.of(values, items="x", unit="queries")
    written = adapter(ItemScores).dump_python(items, mode="json")
    found = read_as(ItemScores, written)
    assert found == items
    assert found.numbers.astype(np.float32).tolist() == np.array(values, dtype=np.float32).tolist()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ranks": "1 2 3"}, "ranks has 3 numbers, values has 2"),
        ({"statistic": "spearman"}, "gold has 0 numbers, values has 2"),
        ({"values": "1 nan"}, "not finite"),
        ({"values": "1 x"}, "could not convert"),
        ({"unit": "apples"}, "unit"),
    ],
)
def test_broken_records_are_refused(changes: dict[str, str], said: str) -> None:
    record = {"unit": "queries", "digest": "d", "values": "0.5 1", **changes}
    with pytest.raises(ValueError, match=said):
        read_as(ItemScores, record)


def test_items_make_a_score_or_do_not() -> None:
    queries = ItemScores.of([0.0, 0.5, 1.0], items="x", unit="queries")
    assert queries.make(0.5) and queries.make(0.50001) and not queries.make(0.51)
    pairs = ItemScores.of([1, 2, 3, 5, 4], gold=[1, 2, 3, 4, 5], items="x", unit="pairs", statistic="spearman")
    assert pairs.make(0.9) and not pairs.make(0.8)
    assert not ItemScores.of([], items="x", unit="queries").make(0.0)


def test_pairs_are_the_same_items_of_the_same_task() -> None:
    one = ItemScores.of([0.5, 1.0], items=["a", "b"], task="A", unit="queries", split="test")
    assert one.pairs_with(ItemScores.of([0.1, 0.2], items=["a", "b"], task="A", unit="queries", split="test"))
    for changes in ({"items": ["a", "c"]}, {"task": "B"}, {"split": "dev"}, {"unit": "texts"}):
        about = {"items": ["a", "b"], "task": "A", "unit": "queries", "split": "test", **changes}
        assert not one.pairs_with(ItemScores.of([0.5, 1.0], **about))  # type: ignore[arg-type]
