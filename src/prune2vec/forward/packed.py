"""Token rows of different lengths laid end to end in one forward pass, without padding and without a mask.

Norms, MLPs and projections look at one token at a time and need not know where a row ends; attention does. transformers
passes the row boundaries down to the attention function, and the one registered here cuts queries, keys and values there:
rows of equal length, which lie side by side, share a call of the ordinary kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate, chain, groupby
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "prune2vec_packed"
Run = tuple[int, int]
"""A length, and how many rows in succession have it."""
BOUNDS = "cu_seq_lens_q"
"""transformers' and sentence-transformers' name for where rows laid end to end begin and end; transformers wants the same
under another name for keys."""

# transformers makes the mask before it calls any attention, with nothing to tell it that rows are laid end to end.
PACKED = ContextVar("packed", default=False)
"""Whether the rows of the forward pass under way are laid end to end."""
TOLD: ContextVar[set[int] | None] = ContextVar("windows that attention was told of", default=None)
"""Gets the sizes of the attention windows of packed forward passes; None where nobody asks."""
T = TypeVar("T")


@contextmanager
def packable(model: PreTrainedModel) -> Iterator[None]:
    """Let a model take packed rows while the context is open; padded batches are computed as before.

    Gradient checkpointing computes attention anew in the backward pass, which must lie within the context too.
    """
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(ATTENTION)
        yield
    finally:
        model.set_attn_implementation(before)


def packed_inputs(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """Return what a model is called with for rows laid end to end, equal lengths side by side."""
    lengths = [len(row) for row in rows]
    runs = tuple((length, len(list(same))) for length, same in groupby(lengths))
    positions = torch.cat([torch.arange(length, device=device).repeat(count) for length, count in runs])
    bounds = row_bounds(rows, device)
    return {
        "input_ids": torch.tensor([list(chain.from_iterable(rows))], device=device),
        "position_ids": positions[None],
        BOUNDS: bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "packed_runs": runs,
    }


def row_bounds(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, " bound"]:
    """Return where each of the rows laid end to end begins, and where the last one ends."""
    return torch.tensor([0, *accumulate(map(len, rows))], dtype=torch.int32, device=device)


@contextmanager
def holding(variable: ContextVar[T], value: T) -> Iterator[None]:
    """Let a context variable hold a value while the context is open."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "1 head token dim"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_runs: tuple[Run, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each row; without packed rows, transformers' own."""
    if packed_runs is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Split, not sliced: the backward pass of a slice fills a tensor of the whole length with zeros, once a slice.
    sizes = [length * count for length, count in packed_runs]
    parts = zip(packed_runs, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    window, told = kwargs.get("sliding_window"), TOLD.get()
    if told is not None and window is not None:
        told.add(window)
    outputs = []
    for (length, count), *states in parts:
        # Without a mask the kernel takes its own causal path, which is the fast one.
        band = _band(length, window, query.device)
        q, k, v = (part[0].unflatten(1, (count, length)).transpose(0, 1) for part in states)
        found, _ = sdpa_attention_forward(module, q, k, v, band, **kwargs)
        outputs.append(found.flatten(0, 1))
    return torch.cat(outputs)[None], None


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of causal attention to the last ``window`` tokens; None where a row is no longer than that."""
    if window is None or length <= window:
        return None
    ones = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """Make no mask for packed rows, and transformers' own for padded batches."""
    return None if PACKED.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
