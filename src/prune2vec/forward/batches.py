"""Token rows run forward through a model: ordered by length, and laid side by side with padding or end to end without.

Profiling, encoding, evaluation and training all run their rows through ``make_batches`` and ``Batch.run``. Whether a model can
take rows laid end to end is found out on the model itself, by computing a few both ways. With some rotary embeddings the longest
row of a pass decides on the frequencies of all: ``length_kind`` tells which rows may share one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, groupby, islice
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import reason_of
from prune2vec.forward.packed import ATTENTION, PACKED, attention_of_any_shape, holding, packable, packed_inputs
from prune2vec.forward.pooling import PoolingFn, pool
from prune2vec.models.families import padding_position
from prune2vec.models.tokens import TokenRow, length_batches

_PROBE_LENGTHS = (7, 3, 7, 5)
# Of the states' spread over the tokens, so that a dimension that is large everywhere hides nothing.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUNDED_TOLERANCE = 0.05

LengthKind = Callable[[int], Hashable]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some of the rows, their ``places`` among all rows, and the ``inputs`` that the model is called with."""

    places: Sequence[int]
    rows: Sequence[TokenRow]
    inputs: dict[str, Any]
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

    @cached_property
    def real(self) -> Bool[Tensor, "batch position"]:
        """Where the states are those of a token."""
        device = self.inputs["input_ids"].device
        if self.packed:
            return torch.ones(self.shape, dtype=torch.bool, device=device)
        lengths = torch.tensor([len(row.ids) for row in self.rows], device=device)
        return torch.arange(self.shape[1], device=device) < lengths[:, None]

    def run(self, model: PreTrainedModel) -> Float[Tensor, "batch position dim"]:
        """Return the model's final states; for rows laid end to end it must be within ``packable``."""
        with holding(PACKED, self.inputs["max_length_q"] if self.packed else 0), attention_of_any_shape():
            states: Tensor = model(**self.inputs, use_cache=False)[0]
        return states

    def pooler(self, weigh: PoolingFn) -> Callable[[Float[Tensor, "batch position dim"]], Float[Tensor, "row dim"]]:
        """Return what pools states to one vector a row, in fp32."""
        device, following, weights = self.inputs["input_ids"].device, iter(self.rows), []
        # Rows laid end to end are pooled as the rectangles that rows of equal length make.
        rectangles = [(len(list(same)), length) for length, same in groupby(len(row.ids) for row in self.rows)]
        for count, width in rectangles if self.packed else [self.shape]:
            bounds = torch.tensor([(row.start, len(row.ids)) for row in islice(following, count)], device=device)
            places = torch.arange(width, device=device)
            attended = (places < bounds[:, 1:]).long()
            weights.append(weigh(attended * (places >= bounds[:, :1]), attended))

        def pooled(states: Float[Tensor, "batch position dim"]) -> Float[Tensor, "row dim"]:
            parts = states.flatten(0, 1).split([of_rows.numel() for of_rows in weights])
            return torch.cat([pool(part.view(*some.shape, -1), some) for part, some in zip(parts, weights, strict=True)])

        return pooled


def make_batches(
    model: PreTrainedModel,
    rows: Sequence[TokenRow],
    *,
    token_budget: int,
    packed: bool = False,
    masked: bool | None = False,
    pad_id: int = 0,
    window: int | None = None,
    device: torch.device | None = None,
) -> Iterator[Batch]:
    """Yield the rows as batches of similar length, longest first.

    Padding is on the right, after every real token, which a causal model never looks at: without a mask the attention kernel's
    own causal path serves.

    Args:
        model: The model that they are for.
        rows: The rows; one may be empty.
        token_budget: Most tokens of a batch, padding included; a longer row makes a batch of its own.
        packed: Lay rows end to end, without padding.
        masked: Pass a mask of the real tokens, for a model that looks at what comes after a token. With None only rows of one
            length share a batch instead, so that such a model needs no mask.
        pad_id: What shorter rows are filled up with.
        window: Rows that are ordered together; None orders all of them.
        device: Where the model computes; None asks the model.
    """
    kind = equal_lengths if masked is None else length_kind(model)
    device, window = device or model.device, window or max(1, len(rows))
    padding = padding_position(model) if packed else None
    for begin in range(0, len(rows), window):
        lengths = [len(row.ids) for row in rows[begin : begin + window]]
        for part in length_batches(lengths, token_budget=token_budget, packed=packed, kind=kind):
            places = [begin + place for place in part]
            chosen = [rows[place] for place in places]
            ids = [row.ids for row in chosen]
            inputs = packed_inputs(ids, device, padding) if packed else _padded_inputs(ids, pad_id, device, masked=bool(masked))
            yield Batch(places=places, rows=chosen, inputs=inputs, packed=packed)


def equal_lengths(length: int) -> int:
    """Return what tells the kind of a row by its number of tokens where only equal ones may share a batch."""
    return length


def _padded_inputs(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device, *, masked: bool) -> dict[str, Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    real = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
    ids = torch.full(real.shape, pad_id)
    # One tensor of all tokens: a small one for each row is slow beside a tiny model.
    ids[real] = torch.tensor(list(chain.from_iterable(rows)), dtype=torch.long)
    inputs = {"input_ids": ids.to(device)}
    return {**inputs, "attention_mask": real.long().to(device)} if masked else inputs


def token_states(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    *,
    token_budget: int | None = None,
    packed: bool = True,
) -> Float[Tensor, "token dim"]:
    """Return the final states of token rows, end to end in the order of ``rows``; differentiable.

    Args:
        model: A base model; within ``packable`` if ``packed``.
        rows: Token ids, at least one a row.
        token_budget: Most tokens of one forward pass, padding included; a longer row gets one of its own. None takes all rows
            at once that may share a pass.
        packed: Lay them end to end, which ``packing_obstacle`` must have nothing against; otherwise they are padded, with a mask.
    """
    budget = token_budget or sum(map(len, rows)) * len(rows)
    batches = make_batches(
        model, [TokenRow(tuple(row), 0) for row in rows], token_budget=budget, packed=packed, masked=not packed
    )
    order: list[int] = []
    found: list[Tensor] = []
    for batch in batches:
        states = batch.run(model)
        found.append(states[0] if packed else states[batch.real])
        order += batch.places
    states = torch.cat(found)
    if order == list(range(len(rows))):
        return states
    begins = dict(zip(order, accumulate((len(rows[place]) for place in order), initial=0), strict=False))
    back = [begins[place] + token for place, row in enumerate(rows) for token in range(len(row))]
    return states.index_select(0, torch.tensor(back, device=states.device))


def packing_obstacle(model: PreTrainedModel, *, max_length: int = 512, room: int | None = None) -> str:
    """Return why a model cannot take packed rows of up to ``max_length`` tokens; empty when it can.

    A few random rows are computed packed and one at a time, long ones among them where attention has a shorter window.

    Args:
        model: A base model.
        max_length: Tokens of the longest row to come.
        room: Tokens that a forward pass has memory for; None for any number.
    """
    attention = model.config._attn_implementation
    if attention not in ("sdpa", ATTENTION):
        return f"its attention is {attention}, which has no kernel for packed rows"
    windows = (getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    # The longest length twice: a mask that spans both rows would show.
    lengths = [*_PROBE_LENGTHS, *(window + 3 for window in windows if window and window < max_length for _ in range(2))]
    generator = torch.Generator().manual_seed(0)
    high = max(2, int(model.get_input_embeddings().num_embeddings))  # type: ignore[arg-type]
    rows = [torch.randint(1, high, (length,), generator=generator).tolist() for length in lengths]
    if room is not None and sum(map(len, rows)) > room:
        return "the memory that may be used does not hold the rows that it is checked with"
    was_training = model.training
    model.eval()
    try:
        return _difference(model, rows)
    except Exception as error:
        # A model may bring code of its own, so anything may come; a fault that is not packing's shows with padding too.
        return f"packed rows fail in it ({reason_of(error)})"
    finally:
        model.train(was_training)


def _difference(model: PreTrainedModel, rows: list[list[int]]) -> str:
    with torch.no_grad():
        alone = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False)[0][0] for row in rows]
        with packable(model):
            # A model that keeps its own attention would still get it right, with a mask over all rows together.
            if model.config._attn_implementation != ATTENTION:
                return "its class does not let its attention be replaced"
            found = token_states(model, rows).float()
    expected = torch.cat(alone).float()
    share = float((found - expected).norm() / (expected - expected.mean(dim=0)).norm())
    if not share <= _TOLERANCE.get(model.dtype, _ROUNDED_TOLERANCE):
        return f"packed rows come out otherwise than alone (by {share:.1e} of the states' spread)"
    return ""


def length_kind(model: PreTrainedModel) -> LengthKind:
    """Return what tells the kind of a text by its number of tokens; texts of different kinds must not share a pass.

    transformers takes the frequencies of a pass from its longest text. With longrope there are two sets, one for texts
    within the positions that the model was first trained with and one for longer ones; with dynamic scaling each length
    beyond has its own (see ``forget_longest_text``).
    """
    entries = rope_entries(model.config)
    positions = int(getattr(model.config, "max_position_embeddings", 0) or 0)
    switches = [
        int(entry.get("original_max_position_embeddings") or positions) for entry in entries if entry["rope_type"] == "longrope"
    ]
    dynamic = any("dynamic" in entry["rope_type"] for entry in entries)
    return lambda length: (sum(length > switch for switch in switches), length if dynamic and length > positions else 0)


def forget_longest_text(model: PreTrainedModel) -> None:
    """Make a model compute the frequencies of every pass from that pass alone; called once, by whoever runs rows through it.

    With dynamic scaling its rotary modules would keep those of the longest text that they have seen.
    """
    if any("dynamic" in entry["rope_type"] for entry in rope_entries(model.config)):
        for module in model.modules():
            if hasattr(module, "max_seq_len_cached") and _forget not in module._forward_pre_hooks.values():
                module.register_forward_pre_hook(_forget)


def rope_entries(config: Any) -> list[dict[str, Any]]:
    """Return the rotary settings of a config that name their type: one, or one for each kind of attention."""
    parameters = getattr(config, "rope_parameters", None) or {}
    entries = [parameters, *parameters.values()] if isinstance(parameters, dict) else []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("rope_type"), str)]


def rope_factor(config: Any) -> float:
    """Return how many times as far as the positions that a config tells its scaled rotary embeddings reach; 1 where they are not."""
    return max([1.0, *(float(entry.get("factor") or 1) for entry in rope_entries(config))])


def _forget(module: nn.Module, args: tuple[Any, ...]) -> None:
    # Any length is then beyond what it has seen, and its frequencies are computed; up to the limit they are the usual ones.
    for name in vars(module):
        if name.endswith("max_seq_len_cached"):
            setattr(module, name, 0)
