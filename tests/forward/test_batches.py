"""A batch of rows end to end gives what the rectangle gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.forward.batches import Batch, make_batches
from prune2vec.forward.pooling import poolings
from prune2vec.models.tokens import TokenRow
from tests.tiny import tiny_model

ROWS = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 11)), min_size=1, max_size=9)
MODEL = tiny_model("llama")


def rows_of(sizes: list[tuple[int, int]]) -> list[TokenRow]:
    """Return rows of these lengths, each with at least its last token pooled."""
    return [TokenRow(tuple(range(1, length + 1)), min(start, length - 1)) for length, start in sizes]


def both(rows: list[TokenRow]) -> tuple[Batch, Batch]:
    """Return all rows as one batch, padded and packed."""
    ((padded,), (packed,)) = (make_batches(MODEL, rows, token_budget=1000, packed=packed) for packed in (False, True))
    return padded, packed


@pytest.mark.parametrize("name", list(poolings))
@given(sizes=ROWS)
def test_pooling_is_that_of_the_rectangle(name: str, sizes: list[tuple[int, int]]) -> None:
    padded, packed = both(rows_of(sizes))
    states = torch.randn(*padded.shape, 4, generator=torch.Generator().manual_seed(len(sizes)))
    weigh = poolings.get(name)
    end_to_end = states[padded.real][None]
    torch.testing.assert_close(packed.pooler(weigh)(end_to_end), padded.pooler(weigh)(states), rtol=1e-6, atol=1e-6)


@given(sizes=ROWS)
def test_tokens_lie_longest_row_first(sizes: list[tuple[int, int]]) -> None:
    rows = rows_of(sizes)
    padded, packed = both(rows)
    assert [rows[place] for place in padded.places] == list(padded.rows) == list(packed.rows)
    assert [len(row.ids) for row in padded.rows] == sorted((length for length, _ in sizes), reverse=True)
    ids = [token for row in padded.rows for token in row.ids]
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


def test_rows_are_filled_up_on_the_right_and_masked_on_request() -> None:
    rows = [TokenRow((8,), 0), TokenRow((5, 6, 7), 1)]
    (bare,), (masked,) = (make_batches(MODEL, rows, token_budget=99, pad_id=9, masked=asked) for asked in (False, True))
    assert bare.places == [1, 0]
    assert bare.inputs["input_ids"].tolist() == masked.inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert set(bare.inputs) == {"input_ids"}
    assert masked.inputs["attention_mask"].tolist() == bare.real.long().tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("rows", [[()], [(), (4, 5)]])
def test_a_row_may_be_empty(rows: list[tuple[int, ...]]) -> None:
    (batch,) = make_batches(MODEL, [TokenRow(row, 0) for row in rows], token_budget=99, masked=True)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    assert ids.dtype == mask.dtype == torch.long
    assert ids.shape == (len(rows), max(1, *map(len, rows), 0))
    assert mask[-1].sum() == 0


def test_windows_are_ordered_by_themselves() -> None:
    rows = rows_of([(2, 0), (5, 0), (3, 0), (9, 0)])
    assert [batch.places for batch in make_batches(MODEL, rows, token_budget=99, window=2)] == [[1, 0], [3, 2]]


def test_no_rows_make_no_batch() -> None:
    assert list(make_batches(MODEL, [], token_budget=99)) == []
