import pytest
import torch

from prune2vec.forward.batches import pad


def test_rows_are_filled_up_on_either_side() -> None:
    ids, mask = pad([(5, 6, 7), (8,)], 9)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    ids, mask = pad([[5, 6, 7], [8]], 9, "left")
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("rows", [[()], [(), (4, 5)]])
def test_a_row_may_be_empty(rows: list[tuple[int, ...]]) -> None:
    ids, mask = pad(rows, 0)
    assert ids.dtype == mask.dtype == torch.long
    assert ids.shape == (len(rows), max(1, *map(len, rows), 0))
    assert mask[0].sum() == 0
