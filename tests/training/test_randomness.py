"""Global generators are lent and given back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from prune2vec.training.randomness import isolated_randomness


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), torch.rand(1).item()


def test_state_is_given_back_even_after_an_error() -> None:
    with isolated_randomness(7):
        expected = draw()
    with isolated_randomness(7):
        with pytest.raises(KeyError), isolated_randomness(1):
            draw()
            raise KeyError
        assert draw() == expected


def test_the_seed_decides() -> None:
    drawn = []
    for seed in (1, 1, 2, -3):
        with isolated_randomness(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1] != drawn[2] != drawn[3]
