"""Token rows of different lengths laid end to end in one forward pass, without padding and without a mask.

Norms, MLPs and projections look at one token at a time and need not know where a row ends; attention does. transformers
passes the row boundaries down to the attention function, and the one registered here cuts queries, keys and values there:
rows of equal length, which lie side by side, share a call of the ordinary kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate, chain, groupby
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prune2vec.errors import reason_of
from prune2vec.models.rope import length_kind
from prune2vec.models.tokens import length_batches

ATTENTION = "prune2vec_packed"
Run = tuple[int, int]
"""A length, and how many rows in succession have it."""
BOUNDS = "cu_seq_lens_q"
"""transformers' and sentence-transformers' name for where rows laid end to end begin and end; transformers wants the same
under another name for keys."""

_PACKED = ContextVar("packed", default=False)
_TOLD: ContextVar[set[int]] = ContextVar("windows that attention was told of")
_PROBE_LENGTHS = (7, 3, 7, 5)
# Of the states' spread over the tokens, so that a dimension that is large everywhere hides nothing.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUNDED_TOLERANCE = 0.05


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


def packed_states(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], *, token_budget: int | None = None
) -> Float[Tensor, "token dim"]:
    """Return the final states of token rows, end to end in the order of ``rows``; differentiable.

    Args:
        model: A base model that ``packing_obstacle`` has nothing against, within ``packable``.
        rows: Token ids, at least one a row.
        token_budget: Most tokens of one forward pass; a longer row gets one of its own. None takes all rows at once that may
            share a pass.
    """
    lengths = [len(row) for row in rows]
    parts = length_batches(lengths, token_budget=token_budget or sum(lengths), packed=True, kind=length_kind(model))
    order = list(chain.from_iterable(parts))
    inputs = [packed_inputs([rows[place] for place in part], model.device) for part in parts]
    states = torch.cat([run_packed(model, of_part)[0] for of_part in inputs])
    if order == list(range(len(rows))):
        return states
    begins = dict(zip(order, accumulate((lengths[place] for place in order), initial=0), strict=False))
    back = [begins[place] + token for place, length in enumerate(lengths) for token in range(length)]
    return states.index_select(0, torch.tensor(back, device=states.device))


def packed_inputs(rows: Sequence[Sequence[int]], device: torch.device) -> dict[str, Any]:
    """Return what ``run_packed`` calls a model with for rows laid end to end, equal lengths side by side."""
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


def run_packed(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Float[Tensor, "1 token dim"]:
    """Return the final states of rows laid end to end.

    Args:
        model: A base model within ``packable``.
        inputs: From ``packed_inputs``.
    """
    token = _PACKED.set(True)
    try:
        states: Tensor = model(**inputs, use_cache=False)[0]
    finally:
        _PACKED.reset(token)
    return states


def packing_obstacle(model: PreTrainedModel, *, max_length: int = 512, room: int | None = None) -> str:
    """Return why a model cannot take packed rows of up to ``max_length`` tokens; empty when it can.

    A few random rows are computed packed and one at a time, a long one among them where attention has a shorter window.

    Args:
        model: A base model.
        max_length: Tokens of the longest row to come.
        room: Tokens that a forward pass has memory for; None for any number.
    """
    attention, chunk = model.config._attn_implementation, getattr(model.config, "attention_chunk_size", None)
    if attention not in ("sdpa", ATTENTION):
        return f"its attention is {attention}, which has no kernel for packed rows"
    if chunk and chunk < max_length:
        return f"its attention looks at chunks of {chunk} tokens, for which packed rows have no kernel"
    window = getattr(model.config, "sliding_window", None)
    window = window if window and window < max_length else None
    rows = _probe_rows(model, window)
    if room is not None and sum(map(len, rows)) > room:
        return "the memory that may be used does not hold the rows that it is checked with"
    was_training = model.training
    model.eval()
    try:
        return _difference(model, rows, window)
    except Exception as error:
        # A model may bring code of its own, so anything may come; a fault that is not packing's shows with padding too.
        return f"packed rows fail in it ({reason_of(error)})"
    finally:
        model.train(was_training)


def _difference(model: PreTrainedModel, rows: list[list[int]], window: int | None) -> str:
    told: set[int] = set()
    with torch.no_grad(), _noting_windows(told):
        alone = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False)[0][0] for row in rows]
        with packable(model):
            # A model that keeps its own attention would still get it right, with a mask over all rows together.
            if model.config._attn_implementation != ATTENTION:
                return "its class does not let its attention be replaced"
            found = packed_states(model, rows).float()
    # A window that is in the mask alone would be lost; few tokens of the rows are beyond it, so their states hardly tell.
    if window is not None and window not in told:
        return f"its attention is not told of its window of {window} tokens"
    expected = torch.cat(alone).float()
    share = float((found - expected).norm() / (expected - expected.mean(dim=0)).norm())
    if not share <= _TOLERANCE.get(model.dtype, _ROUNDED_TOLERANCE):
        return f"packed rows come out otherwise than alone (by {share:.1e} of the states' spread)"
    return ""


@contextmanager
def _noting_windows(told: set[int]) -> Iterator[None]:
    token = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(token)


def _probe_rows(model: PreTrainedModel, window: int | None) -> list[list[int]]:
    # The longest length twice: a mask that spans both rows would show.
    long = [window + 3] * 2 if window is not None else []
    generator = torch.Generator().manual_seed(0)
    high = max(2, int(model.get_input_embeddings().num_embeddings))  # type: ignore[arg-type]
    return [torch.randint(1, high, (length,), generator=generator).tolist() for length in (*_PROBE_LENGTHS, *long)]


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
    window, told = kwargs.get("sliding_window"), _TOLD.get(None)
    if told is not None and window is not None:
        told.add(window)
    outputs = []
    for run, q, k, v in parts:
        band = _band(run[0], window, query.device)
        found, _ = sdpa_attention_forward(module, _rows(q, run), _rows(k, run), _rows(v, run), band, **kwargs)
        outputs.append(found.flatten(0, 1))
    return torch.cat(outputs)[None], None


def _rows(states: Float[Tensor, "1 head token dim"], run: Run) -> Float[Tensor, "row head length dim"]:
    length, count = run
    rows: Tensor = states[0].unflatten(1, (count, length)).transpose(0, 1)
    return rows


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return the mask of causal attention to the last ``window`` tokens; None where a row is no longer than that."""
    if window is None or length <= window:
        return None
    ones = torch.ones(1, 1, length, length, dtype=torch.bool, device=device)
    return ones.tril().triu(1 - window)


def _mask(*args: Any, **kwargs: Any) -> Any:
    """Make no mask for packed rows, and transformers' own for padded batches."""
    return None if _PACKED.get() else sdpa_mask(*args, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)
