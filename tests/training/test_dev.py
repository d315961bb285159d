"""The score on held-out rows, against a ranking by hand."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from prune2vec.data.triplet import Triplet
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.dev import evaluators
from prune2vec.training.training_data import TrainingTable

ROWS = [
    Triplet(anchor="fox", positive="the quick brown fox", negatives=("the lazy dog", "12 birds")),
    Triplet(anchor="file", positive="the file and the line", negatives=("the quick brown fox",)),
    Triplet(anchor="fox", positive="the fox sings", negatives=("12 birds",)),
    Triplet(anchor="not used", positive="not used either", negatives=()),
]


def test_ndcg_is_that_of_the_rows_own_documents(small: Path) -> None:
    encoder = load_encoder(small, device="cpu", dtype="float32")
    table = TrainingTable(rows=ROWS, query_prompt="find: ", document_prompt="")
    (evaluator,) = evaluators({"one": table}, rows=3, batch_size=2)
    found = evaluator(encoder)["one_cosine_ndcg@10"]
    documents = ["the quick brown fox", "the lazy dog", "12 birds", "the file and the line", "the fox sings"]
    wanted = {"fox": {0, 4}, "file": {3}}
    scores = []
    for query, relevant in wanted.items():
        row = (encoder.encode([query], prompt="find: ") @ encoder.encode(documents).T)[0]
        ranking = sorted(range(5), key=lambda index: -row[index])
        gain = sum(1 / math.log2(rank + 2) for rank, index in enumerate(ranking) if index in relevant)
        scores.append(gain / sum(1 / math.log2(rank + 2) for rank in range(len(relevant))))
    assert found == pytest.approx(sum(scores) / 2)
