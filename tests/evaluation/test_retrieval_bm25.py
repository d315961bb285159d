from __future__ import annotations

import math

import pytest

from prune2vec.evaluation.retrieval import Bm25


def test_scores_equal_the_formula() -> None:
    documents = ["cat sat mat", "cat cat dog", "bird"]
    scores = Bm25(documents).scores(["cat"])[0]
    average = (3 + 3 + 1) / 3
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    expected = [idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * 3 / average)) for tf in (1, 2)]
    assert scores[:2].tolist() == pytest.approx(expected, rel=1e-5)
    assert scores[2] == -math.inf


def test_queries_and_corpora_without_words_find_nothing() -> None:
    assert Bm25(["cat", "dog"]).scores(["the", "zebra", ""]).eq(-math.inf).all()
    assert Bm25(["the", ""]).scores(["cat"]).eq(-math.inf).all()


def test_letters_of_unspaced_scripts_are_words() -> None:
    scores = Bm25(["请先安装软件包，然后运行命令。", "河水流过山谷", "install the package"]).scores(["怎么安装软件", "河"])
    assert scores.argmax(dim=1).tolist() == [0, 1] and scores[1, 0] == -math.inf
