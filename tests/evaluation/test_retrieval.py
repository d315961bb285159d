from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune2vec.evaluation.results import METRICS
from prune2vec.evaluation.retrieval import rank_all, retrieval_metrics, tie_order, top_documents


def test_three_queries_by_hand() -> None:
    # q1: first place; q2: third place; q3: two relevant documents, at places 2 and 11.
    filler = [f"x{i}" for i in range(20)]
    ranking = {
        "q1": ["a", *filler],
        "q2": [*filler[:2], "b", *filler[2:]],
        "q3": [filler[0], "c", *filler[1:9], "d", *filler[9:]],
    }
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1, "d": 1}}
    gain3 = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    expected = {
        "ndcg@10": (1 + 1 / math.log2(4) + gain3) / 3,
        "mrr@10": (1 + 1 / 3 + 1 / 2) / 3,
        "recall@1": 1 / 3,
        "recall@10": (1 + 1 + 0.5) / 3,
        "recall@100": 1.0,
    }
    assert retrieval_metrics(ranking, qrels) == pytest.approx(expected)
    assert tuple(expected) == METRICS


def test_graded_judgements_count_in_ndcg() -> None:
    # Linear gains, as trec_eval and mteb have them: 1/log2(2) + 2/log2(3), against the ideal 2 + 1/log2(3).
    found = retrieval_metrics({"q": ["low", "high"]}, {"q": {"low": 1, "high": 2, "zero": 0}})
    assert found["ndcg@10"] == pytest.approx((1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_mrr_stops_at_ten() -> None:
    ids = [f"x{i}" for i in range(10)]
    assert retrieval_metrics({"q": [*ids, "a"]}, {"q": {"a": 1}})["mrr@10"] == 0.0
    assert retrieval_metrics({"q": [*ids[:9], "a"]}, {"q": {"a": 1}})["mrr@10"] == pytest.approx(0.1)


def test_a_query_that_finds_nothing_counts_as_zero() -> None:
    found = retrieval_metrics({"q1": ["a"], "q2": []}, {"q1": {"a": 1}, "q2": {"a": 1}})
    assert found == pytest.approx(dict.fromkeys(METRICS, 0.5))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=4),
    k=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_order_is_by_score_then_by_place(rows: list[list[int]], k: int, seed: int) -> None:
    scores = torch.tensor(rows, dtype=torch.float32) / 3
    places = tie_order(7, seed=seed)
    expected = [sorted(range(7), key=lambda d: (-row[d], int(places[d])))[:k] for row in rows]
    assert top_documents(scores, places, k=k).tolist() == expected


def test_rounding_noise_does_not_decide() -> None:
    places = torch.tensor([1, 0])
    assert top_documents(torch.tensor([[0.5 + 1e-7, 0.5]]), places, k=2).tolist() == [[1, 0]]
    assert top_documents(torch.tensor([[0.5 + 1e-5, 0.5]]), places, k=2).tolist() == [[0, 1]]


def test_ties_favour_neither_the_first_nor_the_last_document() -> None:
    # 200 queries, each tied between its positive (even places) and its negative (odd places).
    places = tie_order(400, seed=42)
    wins = sum(int(places[2 * i]) < int(places[2 * i + 1]) for i in range(200))
    assert 70 < wins < 130


def test_blocks_cover_all_queries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune2vec.evaluation.retrieval._CELLS", 20)
    blocks: list[slice] = []

    def scored(block: slice) -> torch.Tensor:
        blocks.append(block)
        return torch.eye(10)[block, :5]

    ranking = rank_all([f"q{row}" for row in range(10)], list("abcde"), scored, same={}, seed=1)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(10))
    assert len(blocks) == 3
    assert [ranking[f"q{row}"][0] for row in range(5)] == list("abcde")


def test_excluded_and_unfound_documents_are_left_out() -> None:
    scores = torch.tensor([[0.9, 0.5, -math.inf], [0.1, 0.2, 0.3]])
    ranking = rank_all(["q1", "q2"], ["a", "b", "c"], lambda block: scores[block], same={0: 0}, seed=1)
    assert ranking == {"q1": ["b"], "q2": ["c", "b", "a"]}
