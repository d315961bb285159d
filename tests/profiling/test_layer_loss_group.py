from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prune2vec.profiling.layer_loss import group_scores

# Three rows whose cosines can be read off: unit vectors at these angles in degrees, of different lengths.
QUERIES, POSITIVES, NEGATIVES = (0, 90, 200), (10, 60, 170), (80, 100, 350)


def at(angles: tuple[int, ...], *, length: float) -> Tensor:
    turns = torch.tensor([math.radians(angle) for angle in angles], dtype=torch.float64)
    return (torch.stack([turns.cos(), turns.sin()], dim=1) * length).float()


def hand_loss(scale: float) -> float:
    """Return the loss of the three rows in float64, from the angles alone."""
    total = 0.0
    for row, query in enumerate(QUERIES):
        scores = [scale * math.cos(math.radians(query - other)) for other in (*POSITIVES, *NEGATIVES)]
        total += math.log(sum(math.exp(score - scores[row]) for score in scores))
    return total / len(QUERIES)


def three_rows() -> tuple[Tensor, Tensor, Tensor]:
    return at(QUERIES, length=3.0), at(POSITIVES, length=0.5), at(NEGATIVES, length=7.0)


def group(seed: int, rows: int = 6, dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, positives near them, and unrelated negatives."""
    generator = torch.Generator().manual_seed(seed)
    queries, noise, negatives = (torch.randn(rows, dim, generator=generator) for _ in range(3))
    return queries, queries + 0.3 * noise, negatives


@pytest.mark.parametrize("scale", [1.0, 20.0, 50.0])
def test_three_rows_by_hand(scale: float) -> None:
    assert group_scores(*three_rows(), scale=scale).loss == pytest.approx(hand_loss(scale), rel=1e-5)


def test_accuracy_and_alignment_by_hand() -> None:
    scores = group_scores(*three_rows(), scale=50.0)
    # Query 0 is 10 degrees from its positive and 10 from a negative; query 90 is nearer to two negatives.
    queries, positives, negatives = at((0, 90, 200), length=1.0), at((9, 60, 170), length=1.0), at((80, 100, 350), length=1.0)
    assert group_scores(queries, positives, negatives, scale=50.0).accuracy == pytest.approx(2 / 3)
    expected = sum(2 - 2 * math.cos(math.radians(q - p)) for q, p in zip(QUERIES, POSITIVES, strict=True)) / 3
    assert scores.alignment == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_uniformity_by_brute_force(rows: int) -> None:
    queries, positives, negatives = group(3, rows)
    q, p = (np.asarray(x, dtype=np.float64) for x in (queries, positives))
    q, p = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, p))
    texts = [("q", row, vector) for row, vector in enumerate(q)] + [("p", row, vector) for row, vector in enumerate(p)]
    potentials = [
        math.exp(-2 * float(((a - b) ** 2).sum()))
        for (kind, row, a), (other, column, b) in itertools.combinations(texts, 2)
        if not (kind != other and row == column)
    ]
    # All pairs of different texts but the matching ones.
    assert len(potentials) == rows * (2 * rows - 1) - rows
    found = group_scores(queries, positives, negatives, scale=50.0).uniformity
    assert found == pytest.approx(math.log(sum(potentials) / len(potentials)), rel=1e-4)


def test_one_row_has_no_uniformity() -> None:
    assert group_scores(*group(0, rows=1), scale=50.0).uniformity == 0.0


def test_a_collapsed_representation_is_at_the_level_of_guessing() -> None:
    same = torch.ones(64, 4)
    scores = group_scores(same, same, same, scale=50.0)
    assert scores.loss == pytest.approx(math.log(128), rel=1e-5)
    assert (scores.alignment, scores.uniformity) == (pytest.approx(0.0, abs=1e-6), pytest.approx(0.0, abs=1e-5))


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), rows=st.integers(2, 12), scale=st.sampled_from([1.0, 20.0, 50.0]))
def test_the_right_pairs_are_cheaper_than_shuffled_ones(seed: int, rows: int, scale: float) -> None:
    queries, positives, negatives = group(seed, rows)
    shuffled = positives.roll(1 + seed % (rows - 1), dims=0)
    right, wrong = (group_scores(queries, p, negatives, scale=scale) for p in (positives, shuffled))
    assert right.loss < wrong.loss
    assert right.accuracy >= wrong.accuracy and right.alignment < wrong.alignment


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), length=st.floats(0.01, 100))
def test_lengths_of_vectors_and_the_order_of_rows_do_not_matter(seed: int, length: float) -> None:
    queries, positives, negatives = group(seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    loss = group_scores(queries, positives, negatives, scale=20.0).loss
    other = group_scores(queries[order] * length, positives[order], negatives.flip(0) / length, scale=20.0).loss
    assert other == pytest.approx(loss, rel=1e-4, abs=1e-5)


def test_more_negatives_than_rows_or_none_at_all() -> None:
    queries, positives, negatives = group(1)
    many = group_scores(queries, positives, torch.cat([negatives, negatives + 1.0]), scale=20.0).loss
    none = group_scores(queries, positives, negatives[:0], scale=20.0).loss
    assert none < group_scores(queries, positives, negatives, scale=20.0).loss < many


def test_bf16_vectors_are_scored_in_fp32() -> None:
    queries, positives, negatives = (x.bfloat16() for x in group(2))
    expected = group_scores(queries.float(), positives.float(), negatives.float(), scale=50.0)
    assert group_scores(queries, positives, negatives, scale=50.0) == expected
