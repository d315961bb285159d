"""One byte a dimension: the nearest of 256 steps between the least and the greatest value, also for large values."""

from __future__ import annotations

import numpy as np
import pytest

from prune2vec.encoding.store import Precision, ranges_of


@pytest.mark.parametrize("offset", [0.0, -3.0, 1000.0])
def test_the_nearest_step(offset: float) -> None:
    vectors = (np.random.default_rng(0).normal(size=(500, 6)) * [1e-3, 0.1, 1, 3, 10, 99] + offset).astype(np.float32)
    precision = Precision(name="int8", dimension=6, ranges=ranges_of(vectors))
    codes = precision.store(vectors)
    low, high = precision.ranges.astype(np.float64)
    assert codes.dtype == np.int8
    assert (codes.min(axis=0) == -128).all()
    assert (codes.max(axis=0) == 127).all()
    back = (codes.astype(np.float64) + 128) * (high - low) / 255 + low
    exact = (high - low) > 1e-4 * np.abs(low)
    assert (np.abs(back - vectors) <= 0.51 * (high - low) / 255)[:, exact].all()
    # What search restores is that, up to the digits of fp32.
    assert (np.abs(precision.restore(codes) - back) <= 1e-6 * np.abs([low, high]).max(axis=0)).all()


def test_values_outside_the_range_are_its_ends() -> None:
    precision = Precision(name="int8", dimension=2, ranges=np.array([[-1, 0], [1, 2]], dtype=np.float32))
    np.testing.assert_array_equal(precision.store(np.array([[-9, 9], [1, 0]], dtype=np.float32)), [[-128, 127], [127, -128]])


@pytest.mark.parametrize("value", [0.0, 1e-3, -1.0, 77.0, -1e4, 1e6])
def test_a_dimension_that_never_changes(value: float) -> None:
    vectors = np.full((4, 1), value, dtype=np.float32)
    precision = Precision(name="int8", dimension=1, ranges=ranges_of(vectors))
    assert np.isfinite(precision.store(vectors)).all()
    np.testing.assert_allclose(precision.restore(precision.store(vectors)), vectors, rtol=1e-6, atol=1e-7)
