"""Hand-computed values, and what every pooling must do; a new one gets the second part by being registered."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from prune2vec.forward.pooling import IN_FOLDERS, IN_VLLM, POOLINGS, pool, pooling_flags, poolings
from prune2vec.models.text_settings import PAPER_POOLING
from prune2vec.models.text_settings import Pooling as PoolingName

NAMES = poolings.names()
WIDTH, DIM = 9, 4
# (tokens, first pooled token) of five rows; the third has one token, the last is pooled in its last token alone.
ROWS = [(9, 0), (5, 2), (1, 0), (6, 3), (4, 3)]


def masks(rows: list[tuple[int, int]], width: int, side: str = "right") -> tuple[Tensor, Tensor]:
    pooled, attended = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for row, (tokens, start) in enumerate(rows):
        begin = width - tokens if side == "left" else 0
        attended[row, begin : begin + tokens] = 1
        pooled[row, begin + start : begin + tokens] = 1
    return pooled, attended


def states_of(rows: list[tuple[int, int]], width: int, side: str = "right", *, padding: float = 0.0) -> Tensor:
    """Return random states, the same for a row whatever stands around it."""
    states = torch.full((len(rows), width, DIM), padding)
    for row, (tokens, _) in enumerate(rows):
        begin = width - tokens if side == "left" else 0
        states[row, begin : begin + tokens] = torch.randn(tokens, DIM, generator=torch.Generator().manual_seed(row))
    return states


def pooled_rows(name: str, side: str = "right", *, padding: float = 0.0, width: int = WIDTH) -> Tensor:
    return pool(states_of(ROWS, width, side, padding=padding), poolings.get(name)(*masks(ROWS, width, side)))


# Values

HAND = {
    # Five tokens, the first two a prompt, one place of padding.
    "mean": [0, 0, 1 / 3, 1 / 3, 1 / 3, 0],
    "weightedmean": [0, 0, 3 / 12, 4 / 12, 5 / 12, 0],
    "weightedmean-paper": [0, 0, 1 / 6, 2 / 6, 3 / 6, 0],
    "lasttoken": [0, 0, 0, 0, 1, 0],
    "cls": [0, 0, 1, 0, 0, 0],
    "mean_sqrt_len_tokens": [0, 0, 3**-0.5, 3**-0.5, 3**-0.5, 0],
}


@pytest.mark.parametrize("name", HAND)
def test_weights_by_hand(name: str) -> None:
    weights = poolings.get(name)(*masks([(5, 2)], 6))
    torch.testing.assert_close(weights, torch.tensor([HAND[name]], dtype=torch.float32))


def test_a_pooled_vector_by_hand() -> None:
    states = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [0.0, 3.0], [7.0, 7.0]]])
    pooled = torch.tensor([[0, 1, 1, 0]])
    # The last token is attended to and not pooled.
    attended = torch.tensor([[1, 1, 1, 1]])
    expected = {"mean": [0.5, 1.5], "weightedmean": [2 / 5, 9 / 5], "weightedmean-paper": [1 / 3, 2.0], "lasttoken": [0.0, 3.0]}
    expected["cls"] = [1.0, 0.0]
    expected |= {"max": [1.0, 3.0], "mean_sqrt_len_tokens": [2**-0.5, 3 * 2**-0.5]}
    for name, vector in expected.items():
        torch.testing.assert_close(pool(states, poolings.get(name)(pooled, attended)), torch.tensor([vector]))


def test_the_two_weighted_means_differ_only_with_a_prompt() -> None:
    plain = [(tokens, 0) for tokens, _ in ROWS]
    ours, theirs = (poolings.get(name)(*masks(plain, WIDTH)) for name in ("weightedmean-paper", "weightedmean"))
    assert torch.equal(ours, theirs)
    ours, theirs = (poolings.get(name)(*masks(ROWS, WIDTH)) for name in ("weightedmean-paper", "weightedmean"))
    differs = [not torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True)]
    # A single pooled token has all the weight either way.
    assert differs == [False, True, False, True, False]


def test_states_in_bf16_are_pooled_in_fp32() -> None:
    states = torch.tensor([[[256.0], [1.0]]], dtype=torch.bfloat16)
    pooled = torch.ones(1, 2, dtype=torch.long)
    vector = pool(states, poolings.get("mean")(pooled, pooled))
    assert vector.dtype is torch.float32 and vector.item() == 128.5


# Conformance


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"max", "mean_sqrt_len_tokens"}))
@pytest.mark.parametrize("side", ["right", "left"])
def test_padded_and_prompt_positions_weigh_nothing_and_the_rest_weighs_one(name: str, side: str) -> None:
    pooled, attended = masks(ROWS, WIDTH, side)
    weights = poolings.get(name)(pooled, attended)
    assert weights.dtype is torch.float32 and weights.shape == pooled.shape
    assert torch.equal(weights[pooled == 0], torch.zeros(int((pooled == 0).sum())))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(ROWS)))
    assert bool((weights >= 0).all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("side", ["right", "left"])
def test_what_stands_at_padded_positions_does_not_matter(name: str, side: str) -> None:
    assert torch.equal(pooled_rows(name, side), pooled_rows(name, side, padding=1e6))


@pytest.mark.parametrize("name", NAMES)
def test_left_and_right_padding_and_any_amount_of_it_are_equal(name: str) -> None:
    right = pooled_rows(name)
    torch.testing.assert_close(right, pooled_rows(name, "left"), rtol=0, atol=1e-6)
    torch.testing.assert_close(right, pooled_rows(name, width=40), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one_equals_the_row_in_a_batch(name: str) -> None:
    together = pooled_rows(name)
    for row, (tokens, start) in enumerate(ROWS):
        states = torch.randn(1, tokens, DIM, generator=torch.Generator().manual_seed(row))
        alone = pool(states, poolings.get(name)(*masks([(tokens, start)], tokens)))
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"max"}))
def test_gradient_flows_to_pooled_states_alone(name: str) -> None:
    pooled, attended = masks(ROWS, WIDTH)
    states = states_of(ROWS, WIDTH).requires_grad_()
    weights = poolings.get(name)(pooled, attended)
    pool(states, weights).sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad, weights.unsqueeze(2).expand_as(states))
    assert bool((states.grad.abs().sum(dim=(1, 2)) > 0).all())


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"max", "cls"}))
def test_nothing_pooled_gives_a_zero_vector_not_nan(name: str) -> None:
    none = torch.zeros(1, 3, dtype=torch.long)
    assert torch.equal(pool(torch.ones(1, 3, DIM), poolings.get(name)(none, torch.ones_like(none))), torch.zeros(1, DIM))


def test_nothing_pooled_gives_the_first_token_where_that_is_what_counts() -> None:
    states, none = torch.arange(6.0).view(1, 3, 2), torch.zeros(1, 3, dtype=torch.long)
    features = {"token_embeddings": states, "attention_mask": torch.ones_like(none), "prompt_length": 3}
    expected = Pooling(2, pooling_mode="cls", include_prompt=False)(features)["sentence_embedding"]
    assert torch.equal(pool(states, poolings.get("cls")(none, torch.ones_like(none))), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", sorted(set(NAMES) - {PAPER_POOLING}))
@pytest.mark.parametrize("side", ["right", "left"])
def test_sentence_transformers_pools_the_same(name: str, side: str) -> None:
    states = states_of(ROWS, WIDTH, side)
    for row, (_, start) in enumerate(ROWS):
        _, attended = masks(ROWS[row : row + 1], WIDTH, side)
        features = {"token_embeddings": states[row : row + 1], "attention_mask": attended, "prompt_length": start}
        expected = Pooling(DIM, pooling_mode=name, include_prompt=False)(features)["sentence_embedding"]
        torch.testing.assert_close(pooled_rows(name, side)[row : row + 1], expected, rtol=0, atol=1e-6)


# Records


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_every_flag_is_one_that_sentence_transformers_reads() -> None:
    known = {name: method for name, method in POOLINGS.items() if method.flag}
    for name in known:
        config = {"word_embedding_dimension": DIM, **pooling_flags(name, known)}
        assert sum(value is True for value in config.values()) == 1
        assert Pooling(**config).pooling_mode in (name, (name,))


def test_the_names_of_the_settings_are_those_that_are_known() -> None:
    assert set(get_args(PoolingName)) == set(NAMES) == set(POOLINGS)
    assert set(IN_FOLDERS) == set(NAMES) - {PAPER_POOLING}
    assert set(IN_VLLM) == {"cls", "mean", "lasttoken"}
