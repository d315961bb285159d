"""Passes through a model that is in memory: batch by batch through all of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from prune2vec.backbone.padding import PaddingSide
from prune2vec.backbone.passes import Advance, Look, make_batch, watched
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
    """

    model: PreTrainedModel
    family: Family
    pad_id: int
    memory: int | None = None

    def run(
        self,
        rows: Sequence[TokenRow],
        looks: Sequence[Look],
        *,
        token_budget: int | None = None,
        padding_side: PaddingSide = "right",
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through every look's variant of the model; see ``Passes``.

        Raises:
            ConfigError: The longest row does not fit into what the model leaves of the memory that may be used.
        """
        budget = self._budget(rows, token_budget or forward_tokens(self.model.device))
        for look in looks:
            model = look.variant.model(self.model)
            blocks = list(enumerate(block_list(model, self.family)))
            with watched(look, blocks), torch.inference_mode():
                for places in self._batches(rows, len(blocks), budget):
                    batch = make_batch(rows, places, pad_id=self.pad_id, device=self.model.device, side=padding_side)
                    for watcher in look.watchers:
                        watcher.begin(batch)
                    model(**batch.inputs, use_cache=False)
                    for watcher in look.watchers:
                        watcher.end()
                    advance(batch.tokens)
            for layer, _ in blocks:
                for watcher in look.watchers:
                    watcher.layer_done(layer)

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

    def _batches(self, rows: Sequence[TokenRow], depth: int, token_budget: int) -> list[list[int]]:
        window = max(1, _WINDOW_BYTES // (4 * depth * self.model.config.hidden_size))
        batches = []
        for begin in range(0, len(rows), window):
            lengths = [len(row.ids) for row in rows[begin : begin + window]]
            batches += [[begin + place for place in batch] for batch in length_batches(lengths, token_budget=token_budget)]
        return batches
