"""Drawing groups."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.profiling.token_groups import draw_groups


def _rows(count: int, dataset: str = "") -> list[Triplet]:
    return [Triplet(anchor=f"{dataset}{n}", positive="p", dataset=dataset) for n in range(count)]


def test_sampled_is_one_draw_without_replacement_cut_in_order() -> None:
    rows = _rows(50)
    picked = random.Random(7).sample(range(50), 12)
    expected = [[rows[n] for n in picked[start : start + 4]] for start in (0, 4, 8)]
    assert draw_groups(rows, groups=3, size=4, seed=7, order="sampled") == expected


def test_file_takes_the_first_rows_as_they_stand() -> None:
    rows = _rows(9)
    assert draw_groups(rows, groups=2, size=4, seed=1, order="file") == [rows[:4], rows[4:8]]
    assert draw_groups(rows, groups=2, size=4, seed=1, order="file") == draw_groups(
        rows, groups=2, size=4, seed=2, order="file"
    )


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 17), min_size=1), st.integers(1, 4), st.integers(0, 9))
def test_dataset_groups_are_homogeneous_and_never_repeat_a_row(sizes: dict[str, int], size: int, seed: int) -> None:
    rows = [row for name, count in sizes.items() for row in _rows(count, name)]
    whole = sum(count // size for count in sizes.values())
    if whole:
        groups = draw_groups(rows, groups=whole, size=size, seed=seed, order="dataset")
        assert all(len(group) == size and len({row.dataset for row in group}) == 1 for group in groups)
        drawn = [row.anchor for group in groups for row in group]
        assert len(set(drawn)) == len(drawn) == whole * size
    with pytest.raises(DataError):
        draw_groups(rows, groups=whole + 1, size=size, seed=seed, order="dataset")


def test_draws_leave_the_rows_alone_and_depend_on_the_seed_only() -> None:
    rows = _rows(40, "a") + _rows(40, "b")
    before = list(rows)
    for order in ("sampled", "dataset"):
        first, again, other = (draw_groups(rows, groups=4, size=8, seed=seed, order=order) for seed in (1, 1, 2))
        assert first == again != other
    assert rows == before


def test_too_few_rows_say_how_many_are_there_and_needed() -> None:
    with pytest.raises(DataError, match="127 tuples, but 2 groups of 64 need 128; give more texts, or lower groups"):
        draw_groups(_rows(127), groups=2, size=64, seed=0, order="sampled")
    with pytest.raises(DataError, match="14 tuples of 2 data sets give 2 groups of 4 of one data set each, but 3 are needed"):
        draw_groups(_rows(7, "a") + _rows(7, "b"), groups=3, size=4, seed=0, order="dataset")
