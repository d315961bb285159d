"""Some token rows as one forward pass: a rectangle with padding, or end to end without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prune2vec.backbone.packed import Run, equal_runs, packed_inputs
from prune2vec.backbone.padding import PaddingSide, pad
from prune2vec.backbone.tokens import TokenRow
from prune2vec.pooling import PoolingFn, pool


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the rows, as the model is called with them.

    Attributes:
        places: Their numbers among all rows of the run.
        rows: The rows themselves.
        inputs: What the model is called with.
        pooled: 1 where a token is pooled, a row of the rectangle for each text.
        attended: 1 where there is a token at all.
        runs: Of rows laid end to end, their lengths in order, each with how many rows in succession have it; empty for a
            rectangle.
    """

    places: Sequence[int]
    rows: Sequence[TokenRow]
    inputs: dict[str, Any]
    pooled: Int[Tensor, "row seq"]
    attended: Int[Tensor, "row seq"]
    runs: tuple[Run, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return sum(len(row.ids) for row in self.rows)

    @property
    def real(self) -> Bool[Tensor, "batch position"]:
        """Where the states are those of a token, in their shape: (row, seq), or (1, token) for rows laid end to end."""
        attended = self.attended.bool()
        return attended[attended][None] if self.runs else attended

    def pooler(self, weigh: PoolingFn) -> Callable[[Float[Tensor, "batch position dim"]], Float[Tensor, "row dim"]]:
        """Return what pools states to one vector a row, in fp32."""
        weights = weigh(self.pooled, self.attended)
        if not self.runs:
            return partial(pool, weights=weights)
        # Row by row, each from its own states alone, so that a NaN stays in its row.
        sizes = [length * count for length, count in self.runs]
        parts = list(zip(self.runs, weights[self.attended.bool()].split(sizes), strict=True))

        def pool_runs(states: Float[Tensor, "1 token dim"]) -> Float[Tensor, "row dim"]:
            split = states[0].split(sizes)
            return torch.cat(
                [
                    pool(of_run.unflatten(0, (count, length)), of_weights.view(count, length))
                    for ((length, count), of_weights), of_run in zip(parts, split, strict=True)
                ]
            )

        return pool_runs


def make_batch(
    rows: Sequence[TokenRow],
    places: Sequence[int],
    *,
    pad_id: int,
    device: torch.device,
    side: PaddingSide = "right",
    packed: bool = False,
) -> Batch:
    """Lay the rows with the numbers ``places`` side by side on ``device``.

    Padding on the right comes after every real token, which a causal model never looks at: no mask, and the attention
    kernel's own causal path serves. On the left it takes a mask and positions.

    Args:
        rows: All rows.
        places: The numbers of those that are wanted.
        pad_id: What shorter rows are filled up with.
        device: Where the model computes.
        side: Where the filling goes.
        packed: Lay them end to end instead, without filling.
    """
    chosen = [rows[place] for place in places]
    ids, attended = pad([row.ids for row in chosen], pad_id, side)
    pooled = attended.clone()
    for place, row in enumerate(chosen):
        begin = ids.shape[1] - len(row.ids) if side == "left" else 0
        pooled[place, begin : begin + row.start] = 0
    ids, attended, pooled = ids.to(device), attended.to(device), pooled.to(device)
    if packed:
        tokens = [row.ids for row in chosen]
        inputs, runs = packed_inputs(tokens, device), equal_runs(map(len, tokens))
        return Batch(places=places, rows=chosen, inputs=inputs, pooled=pooled, attended=attended, runs=runs)
    inputs = {"input_ids": ids}
    if side == "left":
        positions = (attended.cumsum(dim=1) - 1).clamp(min=0)
        inputs = {"input_ids": ids, "attention_mask": attended, "position_ids": positions}
    return Batch(places=places, rows=chosen, inputs=inputs, pooled=pooled, attended=attended)
