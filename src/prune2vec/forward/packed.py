"""Token rows of different lengths laid end to end in one forward pass, without padding.

Norms, MLPs and projections look at one token at a time and need not know where a row ends; attention does. transformers
passes the row boundaries down to the attention function, and the one registered here cuts queries, keys and values there:
rows of equal length, which lie side by side, share a call of the ordinary kernel. Which tokens of its row a token sees is as
transformers makes the mask of the longest row: that of a shorter one is the beginning of it, as positions alone decide. It
is seldom needed, as the kernel has its own ways for all tokens before and for all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate, chain, groupby
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
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
PACKED = ContextVar("packed", default=0)
"""Tokens of the longest row of the forward pass under way, where its rows are laid end to end, longest first; else 0."""
# What a mask carries: up to which length of a row it shows all tokens before, and up to which all tokens.
_WHOLE = "_prune2vec_whole"
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


def packed_inputs(rows: Sequence[Sequence[int]], device: torch.device, padding: int | None = None) -> dict[str, Any]:
    """Return what a model is called with for rows laid end to end, longest first; ``padding`` is its ``padding_position``."""
    lengths = [len(row) for row in rows]
    runs = tuple((length, len(list(same))) for length, same in groupby(lengths))
    bounds = row_bounds(rows, device)
    ids = torch.tensor(list(chain.from_iterable(rows)), device=device)
    if padding is None:
        positions = torch.cat([torch.arange(length, device=device).repeat(count) for length, count in runs])
    else:
        counted = (ids != padding).long()
        before = torch.cat([counted.new_zeros(1), counted.cumsum(0)])
        positions = (before[1:] - before[bounds[:-1]].repeat_interleave(bounds.diff())) * counted + padding
    return {
        "input_ids": ids[None],
        # All of them real; without it transformers looks for rows in the positions, and makes a mask to part them.
        "attention_mask": torch.ones_like(ids)[None],
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
    outputs = []
    for (length, count), *states in parts:
        q, k, v = (part[0].unflatten(1, (count, length)).transpose(0, 1) for part in states)
        mask, told = _mask_of(attention_mask, length)
        found, _ = sdpa_attention_forward(module, q, k, v, mask, **{**kwargs, **told})
        outputs.append(found.flatten(0, 1))
    return torch.cat(outputs)[None], None


def _mask_of(mask: Tensor | None, length: int) -> tuple[Tensor | None, dict[str, bool]]:
    """Return the mask of a row, and what the kernel is told where it needs none, which is faster."""
    if mask is None:
        return None, {}
    before, everywhere = getattr(mask, _WHOLE, (0, 0))
    if length <= max(before, everywhere):
        return None, {"is_causal": length <= before}
    return mask[..., :length, :length], {}


def _mask(*args: Any, **kwargs: Any) -> Any:
    """Make transformers' own mask: for padded batches, or for the longest of packed rows alone."""
    longest = PACKED.get()
    if not longest:
        return sdpa_mask(*args, **kwargs)
    alone = {"batch_size": 1, "q_length": longest, "kv_length": longest, "q_offset": 0, "kv_offset": 0, "attention_mask": None}
    mask = sdpa_mask(*args, **{**kwargs, **alone})
    if mask is not None:
        ones = torch.ones_like(mask[0, 0])
        setattr(mask, _WHOLE, (_equal_until(mask[0, 0], ones.tril()), _equal_until(mask[0, 0], ones)))
    return mask


def _equal_until(mask: Bool[Tensor, "token token"], other: Bool[Tensor, "token token"]) -> int:
    """Return the length of the longest row for which the beginnings of the two masks are equal."""
    differs = mask != other
    first = (differs.tril().any(dim=1) | differs.triu().any(dim=0)).nonzero()
    return int(first[0]) if len(first) else len(mask)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
