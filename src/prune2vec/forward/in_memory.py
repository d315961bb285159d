"""Passes through a model that is in memory: batch by batch through all of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from transformers import PreTrainedModel

from prune2vec.amounts import readable_bytes
from prune2vec.errors import ConfigError
from prune2vec.forward.batches import PaddingSide, make_batch
from prune2vec.forward.memory_plan import bytes_per_token, largest_block
from prune2vec.forward.packed import packable, packing_obstacle, run_packed
from prune2vec.forward.runner import Advance, ObservedRun, observed
from prune2vec.machine import forward_tokens, memory_in_use
from prune2vec.models.families import Family, block_list
from prune2vec.models.rope import length_kind
from prune2vec.models.tokens import TokenRow, length_batches

# Watchers hold the pooled vectors of so many rows of a window at every depth; batches are sorted by length within it.
_WINDOW_BYTES = 256 << 20


@dataclass(frozen=True, eq=False)
class InMemoryRunner:
    """``Passes`` through a model in memory; the model runs as it is, watched by hooks.

    On a CPU rows are laid end to end where the model takes that; elsewhere not, as each length is a call of the attention
    kernel.

    Attributes:
        model: The base model.
        family: Where its blocks are.
        pad_id: Token id that rows are filled up with.
        memory: Bytes that may be in use in all, on the GPU where the model is there; batches shrink to fit. None: no limit.
    """

    model: PreTrainedModel
    family: Family
    pad_id: int
    memory: int | None = None
    _obstacles: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def run(
        self,
        rows: Sequence[TokenRow],
        looks: Sequence[ObservedRun],
        *,
        token_budget: int | None = None,
        padding_side: PaddingSide | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through every look's variant of the model; see ``Passes``.

        Raises:
            ConfigError: The longest row does not fit into what the model leaves of the memory that may be used.
        """
        longest = max((len(row.ids) for row in rows), default=1)
        room = self._room(longest)
        packed = padding_side is None and len(rows) > 1 and not self._obstacle(longest, room)
        budget = token_budget or forward_tokens(self.model.device, packed=packed)
        budget = budget if room is None else min(budget, room)
        side = None if packed else padding_side or "right"
        for look in looks:
            self._take_through(look, rows, budget, side, advance)

    def _take_through(
        self, look: ObservedRun, rows: Sequence[TokenRow], token_budget: int, side: PaddingSide | None, advance: Advance
    ) -> None:
        """Run all rows through one look's variant of the model; without a side they are laid end to end."""
        model, packed = look.variant.model(self.model), side is None
        blocks = list(enumerate(block_list(model, self.family)))
        with observed(look, blocks), packable(model) if packed else nullcontext(), torch.inference_mode():
            for places in self._batches(rows, len(blocks), token_budget, packed):
                batch = make_batch(rows, places, pad_id=self.pad_id, device=self.model.device, side=side)
                for watcher in look.watchers:
                    watcher.begin(batch)
                if packed:
                    run_packed(model, batch.inputs)
                else:
                    model(**batch.inputs, use_cache=False)
                for watcher in look.watchers:
                    watcher.end()
                advance(batch.tokens)
        for layer, _ in blocks:
            for watcher in look.watchers:
                watcher.layer_done(layer)

    def account(self) -> dict[str, Any]:
        """Return whether rows were laid end to end in the runs so far, and what was against it."""
        obstacle = next(filter(None, self._obstacles.values()), None)
        return {"packing": {"packed": bool(self._obstacles) and obstacle is None, "obstacle": obstacle}}

    def _obstacle(self, longest: int, room: int | None) -> str:
        if longest not in self._obstacles:
            place = self.model.device.type
            self._obstacles[longest] = (
                packing_obstacle(self.model, max_length=longest, room=room) if place == "cpu" else f"it computes on {place}"
            )
        return self._obstacles[longest]

    @cached_property
    def _in_use(self) -> int:
        """Bytes in use before the first run: what a run frees is there for the next, whether the process keeps it or not."""
        return memory_in_use(self.model.device)

    def _room(self, longest: int) -> int | None:
        """Return the tokens that a forward pass has memory for; None without a limit."""
        if self.memory is None:
            return None
        width, itemsize = int(self.model.config.hidden_size), self.model.dtype.itemsize
        per_token = bytes_per_token(largest_block(self.model, self.family), width, itemsize)
        least = self._in_use + per_token * longest
        if self.memory < least:
            raise ConfigError(
                f"memory is {readable_bytes(self.memory)}, but the model is in memory already and the longest text needs "
                f"{readable_bytes(least)} in all ({readable_bytes(self._in_use)} in use); give more memory, or --stream on"
            )
        return (self.memory - self._in_use) // per_token

    def _batches(self, rows: Sequence[TokenRow], depth: int, token_budget: int, packed: bool) -> list[list[int]]:
        window = max(1, _WINDOW_BYTES // (4 * depth * self.model.config.hidden_size))
        batches = []
        for begin in range(0, len(rows), window):
            lengths = [len(row.ids) for row in rows[begin : begin + window]]
            parts = length_batches(lengths, token_budget=token_budget, packed=packed, kind=length_kind(self.model))
            batches += [[begin + place for place in part] for part in parts]
        return batches
