"""Every depth of a model in one forward pass: hooks on the blocks apply the final norm and pool as the pass goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prune2vec.backbone.load import Backbone
from prune2vec.backbone.tokens import TokenRow, length_batches
from prune2vec.errors import ProfileError
from prune2vec.families import block_list, final_modules
from prune2vec.pooling import pool, poolings

PaddingSide = Literal["right", "left"]


def pooled_depths(
    backbone: Backbone,
    rows: Sequence[TokenRow],
    *,
    pooling: str,
    token_budget: int = 8192,
    padding_side: PaddingSide = "right",
    advance: Callable[[float], None] = lambda amount: None,
) -> Float[Tensor, "depth row dim"]:
    """Return the pooled vector of every row at every depth, depth 1 first, in fp32 on the CPU.

    ``result[k - 1]`` holds what the model cut to its first k blocks returns: the final norm applied to block k's
    output, pooled. Only one block's states are alive at a time beside the pooled vectors; the batching does not
    change the result beyond rounding.

    Args:
        backbone: The model.
        rows: Tokenised texts.
        pooling: Name of a registered pooling.
        token_budget: Padded tokens a forward pass may hold.
        padding_side: With ``"right"`` a causal model needs no mask; ``"left"`` passes mask and positions.
        advance: Called with the number of tokens after each batch.

    Raises:
        ProfileError: A vector is NaN or infinite; the message names depth, row and number format.
    """
    batches = length_batches([len(row.ids) for row in rows], token_budget=token_budget)
    out = torch.empty(backbone.shape.num_layers, len(rows), backbone.shape.hidden_size)
    weigh = poolings.get(pooling)
    for batch in batches:
        inputs, pooled, attended = pad_rows([rows[row] for row in batch], backbone, padding_side)
        weights = weigh(pooled, attended)
        with _collect(backbone, weights) as vectors, torch.inference_mode():
            backbone.model(**inputs, use_cache=False)
        stacked = torch.stack(vectors)
        _check_finite(stacked, [rows[row] for row in batch], backbone)
        out[:, batch] = stacked.cpu()
        advance(sum(len(rows[row].ids) for row in batch))
    return out


@contextmanager
def _collect(backbone: Backbone, weights: Float[Tensor, "row seq"]) -> Iterator[list[Tensor]]:
    """Hook every block while the context is open; yields the list that fills with one pooled batch a block."""
    vectors: list[Tensor] = []
    finals = final_modules(backbone.model, backbone.family)

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        for final in finals:
            states = final(states)
        vectors.append(pool(states, weights))

    handles = [block.register_forward_hook(hook) for block in block_list(backbone.model, backbone.family)]
    try:
        yield vectors
    finally:
        for handle in handles:
            handle.remove()


def pad_rows(
    rows: Sequence[TokenRow], backbone: Backbone, side: PaddingSide
) -> tuple[dict[str, Tensor], Int[Tensor, "row seq"], Int[Tensor, "row seq"]]:
    """Return the model's inputs for one batch, and masks of the pooled and of the attended positions."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), backbone.pad_id)
    attended = torch.zeros((len(rows), width), dtype=torch.long)
    pooled = torch.zeros_like(attended)
    for place, row in enumerate(rows):
        begin = width - len(row.ids) if side == "left" else 0
        ids[place, begin : begin + len(row.ids)] = torch.tensor(row.ids)
        attended[place, begin : begin + len(row.ids)] = 1
        pooled[place, begin + row.start : begin + len(row.ids)] = 1
    device = backbone.model.device
    ids, attended, pooled = ids.to(device), attended.to(device), pooled.to(device)
    if side == "right":
        # Padding comes after every real token, which a causal model never looks at: no mask, the fast causal kernel.
        return {"input_ids": ids}, pooled, attended
    positions = (attended.cumsum(dim=1) - 1).clamp(min=0)
    return {"input_ids": ids, "attention_mask": attended, "position_ids": positions}, pooled, attended


def _check_finite(vectors: Float[Tensor, "depth row dim"], rows: Sequence[TokenRow], backbone: Backbone) -> None:
    bad = (~torch.isfinite(vectors).all(dim=2)).nonzero()
    if len(bad):
        depth, row = bad[0].tolist()
        dtype = str(backbone.model.dtype).removeprefix("torch.")
        text = str(backbone.tokenizer.decode(rows[row].ids[:12])).replace("\n", " ")
        raise ProfileError(
            f"NaN or infinity at depth {depth + 1} of {backbone.shape.num_layers} in {dtype} for the text {text!r}...; "
            "use --dtype float32, or check the weights"
        )
