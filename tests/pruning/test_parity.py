import numpy as np
import pytest

from prune2vec.errors import CheckpointError
from prune2vec.pruning.parity import compare_vectors, probe_prompts


def vectors(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 8)).astype(np.float32)


def test_equal_vectors() -> None:
    parity = compare_vectors(vectors(), vectors(), named="reference")
    assert parity.max_difference == 0
    assert parity.min_cosine == pytest.approx(1)
    assert parity.texts == 4


def test_difference_is_refused() -> None:
    with pytest.raises(CheckpointError, match="differs from reference"):
        compare_vectors(vectors(), vectors() + np.float32(1e-2), named="reference")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_broken_vectors_are_refused(value: float) -> None:
    broken = vectors()
    broken[1] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinity|zero vector"):
        compare_vectors(broken, broken, named="reference")


def test_other_shape() -> None:
    with pytest.raises(CheckpointError, match="shape"):
        compare_vectors(vectors(), vectors()[:, :4], named="reference")


def test_prompts_are_compared_once() -> None:
    assert probe_prompts({"query": "find\n", "document": ""}) == ["", "find\n"]
