"""Splitting by group."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.data.mine import split_by_group
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError


def _rows(groups: list[int]) -> list[Triplet]:
    return [Triplet(anchor=str(number), positive="p", group=str(group)) for number, group in enumerate(groups)]


@given(st.lists(st.integers(0, 9), min_size=2, max_size=80), st.floats(0.01, 0.99), st.integers(0, 5))
def test_no_group_is_on_both_sides_and_no_row_is_lost(groups: list[int], fraction: float, seed: int) -> None:
    rows = _rows(groups)
    if len(set(groups)) < 2:
        with pytest.raises(DataError, match="one group"):
            split_by_group(rows, dev_fraction=fraction, seed=seed)
        return
    train, dev = split_by_group(rows, dev_fraction=fraction, seed=seed)
    assert {row.group for row in train}.isdisjoint(row.group for row in dev)
    assert sorted([*train, *dev], key=lambda row: int(row.anchor)) == rows
    assert train
    assert dev
    assert len(dev) <= max(fraction * len(rows), min(Counter(groups).values()))


def test_order_is_kept_and_the_seed_decides() -> None:
    rows = _rows([0, 1, 2, 3, 4, 5] * 5)
    train, dev = split_by_group(rows, dev_fraction=0.4, seed=1)
    assert [int(row.anchor) for row in train] == sorted(int(row.anchor) for row in train)
    assert (train, dev) == split_by_group(rows, dev_fraction=0.4, seed=1)
    assert len({tuple(row.group for row in split_by_group(rows, dev_fraction=0.4, seed=seed)[1]) for seed in range(9)}) > 1


def test_zero_holds_nothing_out() -> None:
    rows = _rows([0, 0])
    assert split_by_group(rows, dev_fraction=0, seed=1) == (rows, [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 64])
def test_other_shares_are_refused(fraction: float) -> None:
    with pytest.raises(ConfigError, match="dev_fraction is"):
        split_by_group(_rows([0, 1]), dev_fraction=fraction, seed=1)
