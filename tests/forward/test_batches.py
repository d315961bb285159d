"""A batch of rows end to end gives what the rectangle gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.forward.batches import Batch, make_batch
from prune2vec.forward.pooling import poolings
from prune2vec.models.tokens import TokenRow

CPU = torch.device("cpu")
ROWS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 11)), min_size=1, max_size=9)


def rows_of(sizes: list[tuple[int, int]]) -> list[TokenRow]:
    """Return rows of these lengths, each with at least its last token pooled."""
    return [TokenRow(tuple(range(1, length + 1)), min(start, length - 1)) for length, start in sizes]


def both(rows: list[TokenRow]) -> tuple[Batch, Batch]:
    places = range(len(rows))
    padded = make_batch(rows, places, pad_id=0, device=CPU)
    return padded, make_batch(rows, places, pad_id=0, device=CPU, side=None)


@pytest.mark.parametrize("name", list(poolings))
@given(sizes=ROWS)
def test_pooling_is_that_of_the_rectangle(name: str, sizes: list[tuple[int, int]]) -> None:
    padded, packed = both(rows_of(sizes))
    states = torch.randn(*padded.shape, 4, generator=torch.Generator().manual_seed(len(sizes)))
    weigh = poolings.get(name)
    end_to_end = states[padded.real][None]
    torch.testing.assert_close(packed.pooler(weigh)(end_to_end), padded.pooler(weigh)(states), rtol=1e-6, atol=1e-6)


@given(sizes=ROWS)
def test_tokens_lie_in_the_order_of_the_rows(sizes: list[tuple[int, int]]) -> None:
    rows = rows_of(sizes)
    padded, packed = both(rows)
    ids = [token for row in rows for token in row.ids]
    assert packed.inputs["input_ids"].tolist() == [ids]
    assert padded.inputs["input_ids"][padded.real].tolist() == ids
    assert packed.inputs["position_ids"].tolist() == [[token - 1 for token in ids]]
    assert packed.real.tolist() == [[True] * len(ids)]
    assert packed.tokens == padded.tokens == len(ids)


def test_a_nan_stays_in_its_row() -> None:
    _, packed = both(rows_of([(3, 0), (3, 0), (2, 0)]))
    states = torch.ones(1, 8, 4)
    states[0, 4] = float("nan")
    found = packed.pooler(poolings.get("mean"))(states)
    assert found.isnan().all(dim=1).tolist() == [False, True, False]


def test_padding_on_the_left_has_a_mask_and_positions() -> None:
    batch = make_batch(rows_of([(3, 1), (1, 0)]), [1, 0], pad_id=9, device=CPU, side="left")
    assert batch.inputs["input_ids"].tolist() == [[9, 9, 1], [1, 2, 3]]
    assert batch.inputs["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert batch.inputs["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert batch.masks[0].pooled.tolist() == [[0, 0, 1], [0, 1, 1]]
