"""From columns to triplets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from prune2vec.data.reader import triplets_of
from prune2vec.data.rows import SourceRow
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError


def _triplets(values: Mapping[str, Any], require_negative: bool = True) -> list[Triplet]:
    return list(triplets_of(SourceRow("f.jsonl:17", 16, values), dataset="f", require_negative=require_negative))


@pytest.mark.parametrize("anchor", ["anchor", "query"])
def test_named_columns(anchor: str) -> None:
    found = _triplets({anchor: "a", "positive": "p", "negative": "n", "other": 3})
    assert found == [Triplet(anchor="a", positive="p", negatives=("n",), dataset="f", line=16)]


def test_numbered_negatives_in_the_order_of_their_numbers() -> None:
    row = {"anchor": "a", "positive": "p", **{f"negative_{n}": f"n{n}" for n in (10, 2, 1)}}
    assert _triplets(row)[0].negatives == ("n1", "n2", "n10")


def test_missing_numbered_negatives_are_left_out() -> None:
    row = {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": None, "negative_3": " "}
    assert _triplets(row)[0].negatives == ("n",)


def test_lists_give_one_triplet_per_positive_with_its_scores() -> None:
    row = {"query": "q", "pos": ["p", "r"], "neg": ["n", "", "m"], "pos_scores": [3, 2.5], "neg_scores": [1, 0.5, 0]}
    first, second = _triplets(row)
    assert (first.positive, first.negatives, first.scores) == ("p", ("n", "m"), (3.0, 1.0, 0.0))
    assert (second.positive, second.negatives, second.scores) == ("r", ("n", "m"), (2.5, 1.0, 0.0))
    assert first.line == second.line == 16


def test_dataset_and_group_columns_override() -> None:
    found = _triplets({"query": "a", "positive": "p", "negative": "n", "dataset": "squad", "group": "numpy"})
    assert (found[0].dataset, found[0].group) == ("squad", "numpy")


@pytest.mark.parametrize(
    ("columns", "negatives"),
    [
        ({"positive": "p", "negative": ["n", "m"]}, ("n", "m")),
        ({"positive": ["p"], "negatives": ["n", None, " "]}, ("n",)),
        ({"positives": ["p"], "negatives": ["n"]}, ("n",)),
        ({"positive": "p", "negative": "n", "negatives": ["m"]}, ("n", "m")),
        ({"positive": "p", "negative1": "n", "negative2": "m", "negative10": None}, ("n", "m")),
        ({"positive": "p", "neg_1": "n", "neg_2": "m"}, ("n", "m")),
        ({"pos": "p", "neg": "n"}, ("n",)),
        (
            {
                "positive_passages": [{"docid": "1", "title": "", "text": "p"}],
                "negative_passages": [{"docid": "2", "title": "T", "text": "n"}],
            },
            ("T n",),
        ),
    ],
)
def test_the_ways_in_which_rows_hold_their_texts(columns: Mapping[str, Any], negatives: tuple[str, ...]) -> None:
    assert _triplets({"query": "q", **columns}) == [
        Triplet(anchor="q", positive="p", negatives=negatives, dataset="f", line=16)
    ]


@pytest.mark.parametrize(
    "columns", [{"positive": "p", "negatives": None}, {"pos": ["p"], "neg": None}, {"pos": None, "neg": ["n"]}]
)
def test_null_lists_are_empty(columns: Mapping[str, Any]) -> None:
    assert _triplets({"query": "q", **columns}) == []
    assert [row.negatives for row in _triplets({"query": "q", **columns}, require_negative=False)] == [()] * bool(
        columns.get("positive", columns.get("pos"))
    )


@pytest.mark.parametrize("empty", ["anchor", "positive", "negative"])
def test_rows_with_an_empty_text_give_nothing(empty: str) -> None:
    assert _triplets({"anchor": "a", "positive": "p", "negative": "n"} | {empty: " \n"}) == []


def test_pairs_are_enough_where_no_negative_is_required() -> None:
    assert _triplets({"anchor": "a", "positive": "p"}, require_negative=False)[0].negatives == ()
    assert _triplets({"anchor": "a", "positive": "p", "negative": ""}, require_negative=False)[0].negatives == ()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "positive": "p"}, "column negative is missing; found positive, query; expected anchor"),
        ({"query": "a", "pos": ["p"]}, "column neg is missing"),
        ({"query": "a", "negative": "n"}, "column positive is missing"),
        ({"text": "a", "label": 1}, r"column anchor \(or query\) is missing; found label, text"),
        ({}, "found none"),
        ({"query": 3, "positive": "p", "negative": "n"}, "query is int, expected a string"),
        ({"query": "a", "positive": None, "negative": "n"}, "positive is null, expected a string"),
        ({"query": "a", "positive": "p", "negative": [["n"]]}, "negative is list, expected a string"),
        ({"query": "a", "pos": {"txt": "p"}, "neg": ["n"]}, "pos: no column 'text'; did you mean 'txt'"),
        (
            {"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [float("nan")], "neg_scores": [1]},
            "must be a list of numbers",
        ),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [10**400]}, "must be a list of numbers"),
        ({"query": "a", "pos": ["p"], "neg": [4]}, "neg is int, expected a string"),
        ({"query": "a", "positive": "p", "negative": "n", "dataset": 5}, "dataset is int"),
        ({"query": "a\ud800", "positive": "p", "negative": "n"}, r"query holds half a character \(\\ud800 at 1\)"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "only one of pos_scores and neg_scores"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "neg_scores": [1]}, "only one of pos_scores and neg_scores"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": [1], "neg_scores": [1, 2]}, "2 numbers for 1 texts"),
        ({"query": "a", "pos": ["p"], "neg": ["n"], "pos_scores": "high"}, "pos_scores must be a list of numbers"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(row: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"f\.jsonl:17: .*{message}"):
        _triplets(row)


def test_a_passage_needs_no_id() -> None:
    (triplet,) = _triplets({"query": "q", "positive": {"id": None, "title": "t", "text": "b"}, "negative": "n"})
    assert triplet.positive == "t b"


def test_a_label_that_utf8_cannot_hold_is_named() -> None:
    with pytest.raises(DataError, match="dataset holds half a character"):
        _triplets({"query": "q", "positive": "p", "negative": "n", "dataset": "\ud800"})
