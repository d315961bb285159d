"""Some token rows as one forward pass: a rectangle with padding, or end to end without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prune2vec.forward.packed import packed_inputs
from prune2vec.forward.pooling import PoolingFn, pool
from prune2vec.models.tokens import TokenRow

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


@dataclass(frozen=True)
class Masks:
    """What is pooled of rows that are equally long, or filled up to be.

    Attributes:
        pooled: 1 where a token is pooled.
        attended: 1 where there is a token at all.
    """

    pooled: Int[Tensor, "row seq"]
    attended: Int[Tensor, "row seq"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the rows, as the model is called with them.

    Attributes:
        places: Their numbers among all rows of the run.
        rows: The rows themselves.
        inputs: What the model is called with.
        masks: One for a rectangle; of rows laid end to end one for each length, in order.
        packed: Whether they are laid end to end.
    """

    places: Sequence[int]
    rows: Sequence[TokenRow]
    inputs: dict[str, Any]
    masks: Sequence[Masks]
    packed: bool = False

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """The states without their last dimension: (row, seq), or (1, token) for rows laid end to end."""
        batch, positions = self.inputs["input_ids"].shape
        return batch, positions

    @property
    def real(self) -> Bool[Tensor, "batch position"]:
        """Where the states are those of a token."""
        if self.packed:
            return torch.ones(self.shape, dtype=torch.bool, device=self.inputs["input_ids"].device)
        return self.masks[0].attended.bool()

    def pooler(self, weigh: PoolingFn) -> Callable[[Float[Tensor, "batch position dim"]], Float[Tensor, "row dim"]]:
        """Return what pools states to one vector a row, in fp32."""
        weights = [weigh(of_rows.pooled, of_rows.attended) for of_rows in self.masks]
        return partial(_pool_packed, weights=weights) if self.packed else partial(pool, weights=weights[0])


def _pool_packed(
    states: Float[Tensor, "1 token dim"], weights: Sequence[Float[Tensor, "row seq"]]
) -> Float[Tensor, "all_rows dim"]:
    parts = states[0].split([of_length.numel() for of_length in weights])
    return torch.cat([pool(part.view(*of_length.shape, -1), of_length) for part, of_length in zip(parts, weights, strict=True)])


def make_batch(
    rows: Sequence[TokenRow], places: Sequence[int], *, pad_id: int, device: torch.device, side: PaddingSide | None = "right"
) -> Batch:
    """Lay the rows with the numbers ``places`` side by side on ``device``.

    Padding on the right comes after every real token, which a causal model never looks at: no mask, and the attention
    kernel's own causal path serves. On the left it takes a mask and positions.

    Args:
        rows: All rows.
        places: The numbers of those that are wanted.
        pad_id: What shorter rows are filled up with.
        device: Where the model computes.
        side: Where the filling goes; None lays them end to end without, for ``run_packed``.
    """
    chosen = [rows[place] for place in places]
    if side is None:
        return _end_to_end(chosen, places, device)
    ids, attended = pad([row.ids for row in chosen], pad_id, side)
    pooled = attended.clone()
    for place, row in enumerate(chosen):
        begin = ids.shape[1] - len(row.ids) if side == "left" else 0
        pooled[place, begin : begin + row.start] = 0
    ids, attended, pooled = ids.to(device), attended.to(device), pooled.to(device)
    inputs = {"input_ids": ids}
    if side == "left":
        positions = (attended.cumsum(dim=1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": attended, "position_ids": positions}
    return Batch(places=places, rows=chosen, inputs=inputs, masks=[Masks(pooled, attended)])


def _end_to_end(chosen: Sequence[TokenRow], places: Sequence[int], device: torch.device) -> Batch:
    inputs, following = packed_inputs([row.ids for row in chosen], device), iter(chosen)
    masks = []
    for length, count in inputs["packed_runs"]:
        starts = torch.tensor([row.start for row in islice(following, count)], device=device)
        pooled = (torch.arange(length, device=device) >= starts[:, None]).long()
        masks.append(Masks(pooled, torch.ones_like(pooled)))
    return Batch(places=places, rows=chosen, inputs=inputs, masks=masks, packed=True)
