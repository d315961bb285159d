"""Hard negatives."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune2vec.data.bm25_negatives import _Pool, add_negatives, best_places
from prune2vec.data.pairs import text_key
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError


def _row(anchor: str, positive: str, group: str = "g") -> Triplet:
    return Triplet(anchor=anchor, positive=positive, group=group)


def _forest(group: str, count: int = 30) -> list[Triplet]:
    return [_row(f"{group} tree number{n}", f"{group} tree with leaf{n} twig{n} root{n}", group) for n in range(count)]


def test_the_text_that_shares_most_words_is_taken() -> None:
    rows = [
        _row("sort a list quickly", "uses timsort"),
        _row("sort an array quickly", "sort any list quickly by merging runs"),
        _row("open a file", "returns a handle"),
        _row("close the socket", "frees the port"),
    ]
    assert add_negatives(rows, candidates=1)[0].negatives == (rows[1].positive,)


def test_scores_equal_a_bm25_written_out_here() -> None:
    texts = ["red fish blue fish", "one fish swims", "blue sky above", "nothing here matches at all"]
    pool = _Pool([_row(f"query {n}", text) for n, text in enumerate(texts)])
    query = ["blue", "fish"]
    found = pool._index.get_scores_from_ids(pool._numbers(query))
    words = [[word for word in text.split() if word not in {"at"}] for text in texts]
    mean = sum(map(len, words)) / len(words)
    for score, document in zip(found, words, strict=True):
        counts = Counter(document)
        expected = 0.0
        for term in query:
            having = sum(term in other for other in words)
            weight = math.log(1 + (len(words) - having + 0.5) / (having + 0.5))
            expected += weight * counts[term] / (counts[term] + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean))
        assert score == pytest.approx(expected, rel=1e-5)


def test_positive_copies_and_answers_to_the_same_query_are_never_taken() -> None:
    rows = [
        _row("sort a list", "sort a list of things in the usual way while keeping equal ones in order"),
        _row("other query", "Sort a list, of things: in the usual way (while keeping equal ones in order)!"),
        _row("third query", "sort a list of things in the usual ways while keeping equal ones in order"),
        _row("Sort a list.", "sort a list by another and longer road entirely"),
        _row("fourth query", "sort a list"),
        _row("fifth query", "an unrelated sentence"),
    ]
    assert add_negatives(rows, negatives=5)[0].negatives == ("an unrelated sentence",)


def test_large_groups_keep_to_themselves_and_small_ones_look_everywhere() -> None:
    rows = [*_forest("oak"), *_forest("elm"), _row("oak tree and elm tree", "a small group of its own", "tiny")]
    found = add_negatives(rows)
    for row in found[:-1]:
        assert row.negatives[0].startswith(row.group)
    assert found[-1].negatives[0].split()[0] in {"oak", "elm"}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.sampled_from("12")), min_size=2, max_size=40)
)
def test_negatives_are_others_positives(rows: list[tuple[str, str, str]]) -> None:
    triplets = [_row(f"find {a}{a}", f"text about {p}{p}", g) for a, p, g in rows]
    try:
        found = add_negatives(triplets, negatives=2, seed=3)
    except DataError:
        return
    answers: dict[str, set[str]] = {}
    for row in triplets:
        answers.setdefault(row.anchor, set()).add(row.positive)
    for row in found:
        assert 1 <= len(set(row.negatives)) == len(row.negatives) <= 2
        assert answers[row.anchor].isdisjoint(row.negatives)
        assert set(row.negatives) <= {other.positive for other in triplets}
        assert text_key(row.positive) not in map(text_key, row.negatives)


def test_the_seed_decides_among_the_candidates() -> None:
    rows = _forest("oak")
    assert add_negatives(rows, seed=1) == add_negatives(rows, seed=1)
    assert add_negatives(rows, seed=1) != add_negatives(rows, seed=2)
    assert all(len(set(row.negatives)) == 3 for row in add_negatives(rows, negatives=3))


def test_texts_of_stop_words_only_can_be_searched() -> None:
    assert add_negatives([_row("the", "and or"), _row("a", "if not")])[0].negatives == ("if not",)


@pytest.mark.parametrize(("negatives", "others"), [(1, 0), (2, 0), (4, 2)])
def test_what_shares_no_word_is_taken_only_where_the_rest_is_not_enough(negatives: int, others: int) -> None:
    rows = _forest("oak", 20)
    rows += [_row("rare word", "an answer", "oak"), _row("x1", "a rare bird", "oak"), _row("x2", "one word more", "oak")]
    for seed in range(20):
        (found,) = (row.negatives for row in add_negatives(rows, negatives=negatives, seed=seed) if row.anchor == "rare word")
        assert len(found) == negatives and sum(text.startswith("oak tree") for text in found) == others


def test_ties_are_taken_in_order() -> None:
    assert best_places(np.array([1.0, 2.0, 1.0, 2.0, 1.0]), 4).tolist() == [1, 3, 0, 2]
    assert best_places(np.array([1.0]), 3).tolist() == [0]


def test_nothing_to_choose_from(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="no negative found among 1 different texts"):
        add_negatives([_row("one", "same text"), _row("two", "same text")])
    with pytest.raises(ConfigError, match="0 negatives of 10 candidates"):
        add_negatives([], negatives=0)
    rows = [_row("one", "same text"), _row("one", "other words"), _row("two", "third thing")]
    assert len(add_negatives(rows, negatives=11)[0].negatives) == 1, "of more candidates than 10, if so many are asked for"
    found = add_negatives(rows)
    assert [row.negatives[0] for row in found[:2]] == ["third thing", "third thing"]
    assert capsys.readouterr().err == ""
    assert len(add_negatives([*rows[:2], _row("two", "same text")])) == 1
    assert "dropped 2 of 3 pairs" in capsys.readouterr().err
