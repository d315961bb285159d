"""Which hard negatives a row gives, and that its teacher scores go with them."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.training.row_negatives import check_rows, choose_negatives, chosen_scores
from prune2vec.training.train_settings import TrainSettings


def row(negatives: int, *, name: str = "a", scores: bool = True) -> Triplet:
    taught = (9.0, *(float(number) for number in range(negatives))) if scores else ()
    texts = tuple(f"{name} n{number}" for number in range(negatives))
    return Triplet(anchor=name, positive=f"{name} p", negatives=texts, dataset="one", line=4, scores=taught)


def settings(count: int, sampling: str = "sampled", seed: int = 42) -> TrainSettings:
    return TrainSettings(hard_negatives=count, negative_sampling=sampling, seed=seed)  # type: ignore[arg-type]


def test_the_first_ones_from_the_start_again_when_they_run_out() -> None:
    assert choose_negatives(row(5), settings(3, "first")) == [0, 1, 2]
    assert choose_negatives(row(2), settings(5, "first")) == [0, 1, 0, 1, 0]
    assert choose_negatives(row(2), settings(0)) == choose_negatives(row(0), settings(0)) == []


def test_a_draw_takes_none_twice_while_others_are_left() -> None:
    for number in range(30):
        found = choose_negatives(row(10, name=f"row {number}"), settings(7))
        assert len(set(found)) == 7
        assert set(found) <= set(range(10))
    assert set(Counter(choose_negatives(row(3), settings(7))).values()) == {2, 3}


def test_a_draw_depends_on_seed_and_row_alone() -> None:
    chosen = settings(3)
    draws = {name: choose_negatives(row(10, name=name), chosen) for name in "abcdefgh"}
    assert draws == {name: choose_negatives(row(10, name=name), chosen) for name in reversed("abcdefgh")}
    assert len({tuple(draw) for draw in draws.values()}) > 4
    assert draws != {name: choose_negatives(row(10, name=name), settings(3, seed=1)) for name in draws}
    # Every negative has its turn in some row.
    assert {number for name in range(60) for number in choose_negatives(row(10, name=str(name)), chosen)} == set(range(10))


def test_scores_follow_the_chosen_negatives_and_repeat_with_them() -> None:
    assert chosen_scores(row(4), [2, 0, 2]) == [9.0, 2.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (row(2, scores=False), "0 teacher scores for 3 documents"),
        (Triplet(anchor="a", positive="b", negatives=("c", "d"), dataset="one", line=4, scores=(1.0, 2.0)), "2 teacher scores"),
        (Triplet(anchor="a", positive="b", negatives=("c",), dataset="one", line=4, scores=(1.0, math.nan)), "not finite"),
    ],
)
def test_a_row_without_scores_is_named_where_they_are_learnt(broken: Triplet, found: str) -> None:
    with pytest.raises(DataError, match=rf"row 5 of one has .*{found}.*set distil to none"):
        check_rows([row(2), broken], TrainSettings(distil="data", hard_negatives=2))
    check_rows([row(2), broken], TrainSettings(hard_negatives=2))
