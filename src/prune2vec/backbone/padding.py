"""Rows of unequal length as one rectangle of token ids and its mask."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

PaddingSide = Literal["right", "left"]


def pad(
    rows: Sequence[Sequence[int]], pad_id: int, side: PaddingSide = "right"
) -> tuple[Int[Tensor, "row seq"], Int[Tensor, "row seq"]]:
    """Return the token ids of ``rows``, filled up with ``pad_id``, and a mask of the real ones, both int64 on the CPU.

    Args:
        rows: Token ids of each text; one may be empty, and the rectangle is at least one token wide.
        pad_id: What shorter rows are filled up with.
        side: Where the filling goes.
    """
    lengths = torch.tensor([len(row) for row in rows])
    places = torch.arange(max(1, int(lengths.max())))
    real = places < lengths[:, None] if side == "right" else places >= len(places) - lengths[:, None]
    ids = torch.full(real.shape, pad_id)
    # One tensor of all tokens: a small one for each row is slow beside a tiny model.
    ids[real] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    return ids, real.long()
