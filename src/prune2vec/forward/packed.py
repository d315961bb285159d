"""Token rows of different lengths laid end to end in one forward pass, without padding.

Norms, MLPs and projections look at one token at a time and need not know where a row ends; attention does. transformers
passes the row boundaries down to the attention function, and the one registered here cuts queries, keys and values there:
rows of equal length, which lie side by side, share a call of the ordinary kernel. On a GPU, where a call costs more than what
it computes, rows of similar length share one and are filled up for it. Which tokens of its row a token sees is as
transformers makes the mask of the longest row: that of a shorter one is the beginning of it, as positions alone decide. It
is seldom needed, as the kernel has its own ways for all tokens before and for all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ATTENTION = "prune2vec_packed"
BOUNDS = "cu_seq_lens_q"
"""transformers' and sentence-transformers' name for where rows laid end to end begin and end; transformers wants the same
under another name for keys."""

# transformers makes the mask before it calls any attention, with nothing to tell it that rows are laid end to end.
PACKED = ContextVar("packed", default=0)
"""Tokens of the longest row of the forward pass under way, where its rows are laid end to end, longest first; else 0."""
# What a mask carries: up to which length of a row it shows all tokens before, and up to which all tokens.
_WHOLE = "_prune2vec_whole"
SIMILAR = {"cpu": 1.0, "other": 0.5}
"""By the device, down to which share of the longest one's tokens rows share a call of the attention kernel."""
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rectangle:
    """Rows in succession that share a call of the attention kernel, longest first.

    Attributes:
        lengths: Tokens of each row.
        real: Where a token is, (row, position); None where all rows are of one length.
        places: The positions of the rows' tokens among those of the rectangle; None likewise.
    """

    lengths: tuple[int, ...]
    real: Bool[Tensor, "row position"] | None = None
    places: Int[Tensor, " token"] | None = None

    def filled(self, states: Float[Tensor, "head token dim"]) -> Float[Tensor, "row head position dim"]:
        """Return the rows' states side by side, zeros after the end of a shorter one."""
        if self.places is None:
            rows: Tensor = states.unflatten(1, (len(self.lengths), -1))
            return rows.transpose(0, 1)
        head, _, dim = states.shape
        shape = len(self.lengths), self.lengths[0], head, dim
        whole: Tensor = states.new_zeros(shape[0] * shape[1], head, dim).index_copy(0, self.places, states.transpose(0, 1))
        return whole.view(shape).transpose(1, 2)

    def end_to_end(self, states: Float[Tensor, "row position head dim"]) -> Float[Tensor, "token head dim"]:
        """Return the states of the rows' tokens."""
        flat = states.flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)

    def mask(self, mask: Tensor | None, causal: bool) -> tuple[Tensor | None, dict[str, bool]]:
        """Return the mask of the rows, and what the kernel is told where it needs none, which is faster.

        Args:
            mask: That of the longest row of the pass, if there is one.
            causal: Whether a token sees those before it alone where there is none.
        """
        longest = self.lengths[0]
        before, everywhere = getattr(mask, _WHOLE, (0, 0))
        causal = causal if mask is None else longest <= before
        shown = None if mask is None or longest <= max(before, everywhere) else mask[..., :longest, :longest]
        # What fills up a row comes after all its tokens, so a causal kernel shows it to none of them.
        if shown is None and (causal or self.real is None):
            return None, {"is_causal": causal}
        if self.real is None:
            return shown, {}
        seen = self.real[:, None, None] if shown is None else self.real[:, None, None] & shown
        # A token that sees nothing would be NaN, and so would the gradients of all others.
        return seen | ~self.real[:, None, :, None], {}


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


@contextmanager
def attention_of_any_shape() -> Iterator[None]:
    """Keep torch from cuDNN's attention while the context is open, on whatever GPU.

    It makes a plan for every new shape of its inputs, which takes longer than a training step, and texts bring new ones with
    every batch. The other kernels take any shape.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def packed_inputs(rows: Sequence[Sequence[int]], device: torch.device, padding: int | None = None) -> dict[str, Any]:
    """Return what a model is called with for rows laid end to end, longest first; ``padding`` is its ``padding_position``."""
    lengths = [len(row) for row in rows]
    bounds = row_bounds(rows, device)
    ids = torch.tensor(list(chain.from_iterable(rows)), device=device)
    if padding is None:
        positions = torch.arange(len(ids), device=device) - bounds[:-1].repeat_interleave(bounds.diff())
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
        "rectangles": tuple(_rectangles(lengths, device)),
    }


def _rectangles(lengths: Sequence[int], device: torch.device) -> Iterator[Rectangle]:
    """Yield the calls of the attention kernel for rows, longest first: one a length on a CPU, few on a GPU."""
    least = SIMILAR.get(device.type, SIMILAR["other"])
    end = 0
    while end < len(lengths):
        begin, longest = end, lengths[end]
        while end < len(lengths) and lengths[end] >= least * longest:
            end += 1
        shared = tuple(lengths[begin:end])
        if shared[-1] == longest:
            yield Rectangle(lengths=shared)
        else:
            real = torch.arange(longest) < torch.tensor(shared)[:, None]
            places = real.flatten().nonzero()[:, 0]
            yield Rectangle(lengths=shared, real=real.to(device), places=places.to(device))


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
    rectangles: tuple[Rectangle, ...] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention within each row; without packed rows, transformers' own."""
    if rectangles is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # As the kernel decides it where it is not told.
    causal = getattr(module, "is_causal", True) if (said := kwargs.get("is_causal")) is None else said
    # Split, not sliced: the backward pass of a slice fills a tensor of the whole length with zeros, once a slice.
    sizes = [sum(rectangle.lengths) for rectangle in rectangles]
    parts = zip(rectangles, *(states[0].split(sizes, dim=1) for states in (query, key, value)), strict=True)
    outputs = []
    for rectangle, *states in parts:
        mask, told = rectangle.mask(attention_mask, causal)
        q, k, v = map(rectangle.filled, states)
        found, _ = sdpa_attention_forward(module, q, k, v, mask, **{**kwargs, **told})
        outputs.append(rectangle.end_to_end(found))
    return torch.cat(outputs)[None], None


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
