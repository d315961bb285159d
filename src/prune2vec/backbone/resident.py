"""Passes through a model that is in memory: batch by batch through all of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel

from prune2vec.backbone.batches import Batch, make_batch
from prune2vec.backbone.packed import packable, packing_obstacle, run_packed
from prune2vec.backbone.padding import PaddingSide
from prune2vec.backbone.passes import Advance, Look, watched
from prune2vec.backbone.room import bytes_per_token, largest_block
from prune2vec.backbone.tokens import TokenRow, length_batches
from prune2vec.errors import ConfigError
from prune2vec.families import Family, block_list
from prune2vec.machine import forward_tokens, memory_in_use
from prune2vec.records.amounts import readable_bytes

# Watchers hold the pooled vectors of so many rows of a window at every depth; batches are sorted by length within it.
_WINDOW_BYTES = 256 << 20


@dataclass(frozen=True)
class ResidentPasses:
    """``Passes`` through a model in memory; the model runs as it is, watched by hooks.

    Attributes:
        model: The base model.
        family: Where its blocks are.
        pad_id: Token id that rows are filled up with.
        memory: Bytes that may be in use in all, on the GPU where the model is there; batches shrink to fit. None: no limit.
        packs: Whether the model takes rows laid end to end, by the length of the longest; found out when it is needed.
    """

    model: PreTrainedModel
    family: Family
    pad_id: int
    memory: int | None = None
    packs: dict[int, bool] = field(default_factory=dict, init=False, repr=False)

    def run(
        self,
        rows: Sequence[TokenRow],
        looks: Sequence[Look],
        *,
        token_budget: int | None = None,
        padding_side: PaddingSide | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through every look's variant of the model; see ``Passes``.

        Raises:
            ConfigError: The longest row does not fit into what the model leaves of the memory that may be used.
        """
        packed = padding_side is None and self._packs(rows)
        budget = self._budget(rows, token_budget or forward_tokens(self.model.device, packed=packed))
        for look in looks:
            model = look.variant.model(self.model)
            blocks = list(enumerate(block_list(model, self.family)))
            with watched(look, blocks), packable(model) if packed else nullcontext(), torch.inference_mode():
                for places in self._batches(rows, len(blocks), budget, packed):
                    batch = self._batch(rows, places, padding_side or "right", packed)
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

    def _packs(self, rows: Sequence[TokenRow]) -> bool:
        """Return whether rows are laid end to end: on a CPU alone, as each length is a call of the attention kernel."""
        if self.model.device.type != "cpu" or len(rows) < 2:
            return False
        longest = max(len(row.ids) for row in rows)
        if longest not in self.packs:
            self.packs[longest] = not packing_obstacle(self.model, max_length=longest)
        return self.packs[longest]

    def _batch(self, rows: Sequence[TokenRow], places: Sequence[int], side: PaddingSide, packed: bool) -> Batch:
        return make_batch(rows, places, pad_id=self.pad_id, device=self.model.device, side=side, packed=packed)

    def _budget(self, rows: Sequence[TokenRow], token_budget: int) -> int:
        if self.memory is None:
            return token_budget
        width, itemsize = int(self.model.config.hidden_size), self.model.dtype.itemsize
        per_token = bytes_per_token(largest_block(self.model, self.family), width, itemsize)
        in_use, longest = memory_in_use(self.model.device), max((len(row.ids) for row in rows), default=1)
        least = in_use + per_token * longest
        if self.memory < least:
            raise ConfigError(
                f"memory is {readable_bytes(self.memory)}, but the model is in memory already and the longest text needs "
                f"{readable_bytes(least)} in all ({readable_bytes(in_use)} in use); give more memory, or --stream on"
            )
        return min(token_budget, (self.memory - in_use) // per_token)

    def _batches(self, rows: Sequence[TokenRow], depth: int, token_budget: int, packed: bool) -> list[list[int]]:
        window = max(1, _WINDOW_BYTES // (4 * depth * self.model.config.hidden_size))
        batches = []
        for begin in range(0, len(rows), window):
            lengths = [len(row.ids) for row in rows[begin : begin + window]]
            parts = length_batches(lengths, token_budget=token_budget, packed=packed)
            batches += [[begin + place for place in part] for part in parts]
        return batches
