"""Ridge regression against ordinary least squares with rows for the penalty, and against fits that really leave a row out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.ridge import RIDGES, best_ridge_fit


def drawn(seed: int, rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.normal(0.7, 1.0, (rows, width)), draw.normal(size=(rows, 3))


def by_least_squares(inputs: np.ndarray, targets: np.ndarray, penalty: float, bias: bool) -> np.ndarray:
    """Return weight and, in the last row, bias, (width + 1, out): the constant is one more column, which no penalty's row has."""
    columns = np.hstack([inputs, np.full((len(inputs), 1), float(bias))])
    extra = np.sqrt(penalty) * np.eye(*[inputs.shape[1], columns.shape[1]])
    rows = np.vstack([columns, extra]), np.vstack([targets, np.zeros((len(extra), targets.shape[1]))])
    return np.linalg.lstsq(*rows, rcond=None)[0]


def penalty_of(inputs: np.ndarray, ridge: float, bias: bool) -> float:
    return float(ridge * len(inputs) * np.square(inputs - inputs.mean(0) if bias else inputs).mean())


def cosine_without(inputs: np.ndarray, targets: np.ndarray, penalty: float, bias: bool) -> float:
    """Return the mean cosine of each target with what a fit that really lacks its row makes of the row."""
    cosines = []
    for place, target in enumerate(targets):
        left = by_least_squares(np.delete(inputs, place, axis=0), np.delete(targets, place, axis=0), penalty, bias)
        found = np.append(inputs[place], float(bias)) @ left
        cosines.append(found @ target / np.linalg.norm(found) / np.linalg.norm(target))
    return float(np.mean(cosines))


@given(st.integers(0, 10**6), st.integers(4, 20), st.integers(1, 30), st.booleans())
def test_a_fit_is_that_of_least_squares_by_the_ridge_that_does_best_on_rows_left_out(
    seed: int, rows: int, width: int, bias: bool
) -> None:
    inputs, targets = drawn(seed, rows, width)
    fit = best_ridge_fit(torch.from_numpy(inputs), torch.from_numpy(targets), bias=bias)
    expected = by_least_squares(inputs, targets, penalty_of(inputs, fit.ridge, bias), bias)
    np.testing.assert_allclose(fit.weight.numpy(), expected[:-1].T, atol=1e-6)
    assert (fit.bias is None) == (not bias)
    if fit.bias is not None:
        np.testing.assert_allclose(fit.bias.numpy(), expected[-1], atol=1e-6)
    cosines = {ridge: cosine_without(inputs, targets, penalty_of(inputs, ridge, bias), bias) for ridge in RIDGES}
    assert fit.cosine == pytest.approx(cosines[fit.ridge], abs=1e-6) == pytest.approx(max(cosines.values()), abs=1e-6)


def test_the_ridge_is_the_one_that_does_best_on_what_was_left_out() -> None:
    inputs, targets = map(torch.from_numpy, drawn(1, 30, 25))
    best = best_ridge_fit(inputs, targets, bias=True)
    assert best.ridge == 1.0, "there is nothing to learn"
    exact = best_ridge_fit(inputs, inputs @ torch.ones(25, 3, dtype=torch.float64), bias=False)
    assert exact.ridge == RIDGES[0] and exact.cosine > 0.999


def test_inputs_that_are_all_alike_have_an_answer() -> None:
    fit = best_ridge_fit(torch.ones(3, 8), torch.eye(3), bias=True)
    assert not fit.weight.any() and fit.bias is not None and fit.bias.tolist() == pytest.approx([1 / 3] * 3)
