from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytrec_eval
from sklearn.linear_model import LogisticRegression

from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.item_scores import ItemScores, first_right
from tests.evaluation.test_mteb_runner import run

DOCUMENTS = ("the quick brown fox", "layers of a language model", "return the number of rows", "birds sing in spring")
TASKS = "SciFact,STSBenchmark,Banking77Classification"


def only(items: tuple[ItemScores, ...]) -> ItemScores:
    (found,) = items
    return found


def test_queries_have_trec_eval_s_scores(encoder: LoadedEncoder, mirror: Path) -> None:
    # Prompts that make the encoder find other documents than a query's own.
    score = run(encoder, "SciFact", mirror, {"query": "birds layers rows: ", "document": ""})
    items = only(score.items)
    assert (items.unit, items.split, items.subset, len(items)) == ("queries", "test", "default", 2)
    documents = encoder.model.encode(list(DOCUMENTS))
    queries = encoder.model.encode([DOCUMENTS[0], DOCUMENTS[3]], prompt="birds layers rows: ")
    found = {
        query: {str(place): float(one) for place, one in enumerate(row)}
        for query, row in zip("ab", queries @ documents.T, strict=True)
    }
    theirs = pytrec_eval.RelevanceEvaluator({"a": {"0": 1}, "b": {"3": 1}}, {"ndcg_cut.10"}).evaluate(found)
    assert items.numbers == pytest.approx([theirs[query]["ndcg_cut_10"] for query in "ab"], abs=1e-6)
    assert items.places == tuple(
        1 + sum(one > found[query][right] for one in found[query].values()) for query, right in ("a0", "b3")
    )
    assert items.numbers.mean() == pytest.approx(score.score, abs=1e-5)


def test_pairs_have_their_cosine_and_gold(encoder: LoadedEncoder, mirror: Path) -> None:
    items = only(run(encoder, "STSBenchmark", mirror).items)
    left = encoder.model.encode(["a quick fox", "a lazy dog", "cut layers"])
    right = encoder.model.encode(["the quick fox", "birds sing", "layers cut"])
    assert (items.unit, items.statistic) == ("pairs", "spearman")
    assert items.right.tolist() == [4.5, 0.5, 4.0]
    assert items.numbers == pytest.approx(np.sum(left * right, axis=1), abs=1e-5)
    assert only(run(encoder, "STSBenchmark", mirror, {"text": "x: "}).items).pairs_with(items)


def test_texts_have_the_share_of_classifiers_that_are_right(encoder: LoadedEncoder, mirror: Path) -> None:
    score = run(encoder, "Banking77Classification", mirror)
    items = only(score.items)
    assert (items.unit, items.statistic, len(items)) == ("texts", "mean", 4)
    # All training texts are drawn here, whatever the draw, so that mteb's ten classifiers are one.
    texts = [
        f"{text} {number}"
        for number in range(3)
        for text in ("lost card", "card lost again", "exchange rate", "what rate do you give")
    ]
    labels, vectors = [0, 0, 1, 1] * 3, encoder.model.encode(texts)
    guesses = LogisticRegression(max_iter=100).fit(vectors, labels).predict(vectors[:4])
    assert items.numbers.tolist() == [float(guess == label) for guess, label in zip(guesses, labels, strict=False)]
    assert items.numbers.mean() == pytest.approx(score.score)


def test_what_does_not_make_the_score_is_not_kept(
    encoder: LoadedEncoder, mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ItemScores.of

    def other(values: Any, **about: Any) -> ItemScores:
        return made([1 - value for value in values], **about)

    monkeypatch.setattr(ItemScores, "of", other)
    assert run(encoder, "SciFact", mirror, {"query": "", "document": ""}).items == ()


@pytest.mark.parametrize(
    ("scores", "grades", "place"),
    [
        ({"a": 0.5, "b": 0.7, "c": 0.1}, {"a": 1}, 2),
        ({"a": 0.5, "b": 0.7, "c": 0.1}, {"a": 1, "b": 0, "c": 2}, 2),
        # trec_eval puts the greater id first.
        ({"a": 0.5, "b": 0.5}, {"a": 1}, 2),
        ({"a": 0.5, "b": 0.5}, {"b": 1}, 1),
        ({"a": 0.5}, {"z": 1}, 0),
        ({}, {}, 0),
    ],
)
def test_place_of_the_first_right_document(scores: dict[str, float], grades: dict[str, int], place: int) -> None:
    assert first_right(scores, grades) == place
