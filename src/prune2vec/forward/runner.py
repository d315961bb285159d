"""Who sees the states inside blocks while rows run through a model, and how they run through one that is in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from prune2vec.forward.batches import Batch, forget_longest_text, make_batches, packing_obstacle
from prune2vec.forward.memory_plan import bytes_per_token, tokens_per_pass, tokens_that_fit
from prune2vec.forward.packed import packable
from prune2vec.machine import memory_in_use
from prune2vec.models.cut import cut_model
from prune2vec.models.families import Family, block_list
from prune2vec.models.kept import Kept
from prune2vec.models.tokens import TokenRow
from prune2vec.progress import Advance

# Observers hold the pooled vectors of so many rows of a window at every depth; batches are sorted by length within it.
_WINDOW_BYTES = 256 << 20


class Observer(ABC):
    """Sees the states inside blocks while texts run through them.

    For every batch: ``begin``, then the blocks run with this observer's hooks on them, then ``end``. A model in memory runs
    all its blocks between the two, one that is streamed a single block. So an observer keeps only what it needs of the batch
    until ``end``.
    """

    @abstractmethod
    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Hook block number ``layer`` of the model that is observed; the caller removes the hooks."""

    def begin(self, batch: Batch) -> None:  # noqa: B027
        """Note which rows run next."""

    def end(self) -> None:  # noqa: B027
        """Take in what the hooks saw of the batch."""


@dataclass(frozen=True, kw_only=True)
class ObservedRun:
    """All rows through the model, or what is ``kept`` of it, with its layers numbered anew from 0 for the observers."""

    observers: Sequence[Observer]
    kept: Kept | None = None

    def model(self, whole: PreTrainedModel) -> PreTrainedModel:
        """Return the cut model; it shares its weights, or their absence, with ``whole``."""
        return whole if self.kept is None else cut_model(whole, self.kept, share=True)

    @contextmanager
    def hooked(self, layers: Sequence[tuple[int, nn.Module]]) -> Iterator[None]:
        """Hook these blocks for the observers while the context is open."""
        with ExitStack() as stack:
            for layer, block in layers:
                for observer in self.observers:
                    for handle in observer.hooks(layer, block):
                        stack.callback(handle.remove)
            yield

    @contextmanager
    def observing(self, batch: Batch) -> Iterator[None]:
        """Tell the observers of a batch that runs while the context is open."""
        for observer in self.observers:
            observer.begin(batch)
        yield
        for observer in self.observers:
            observer.end()


@dataclass(frozen=True, eq=False)
class InMemoryRunner:
    """Runs rows through a model in memory, which runs as it is, observed by hooks; ``StreamingRunner`` does the same otherwise.

    On a CPU rows are laid end to end where the model takes that; elsewhere not, as each length is a call of the attention
    kernel.

    Attributes:
        model: The base model.
        family: Where its blocks are.
        pad_id: Token id that rows are filled up with.
        memory: Bytes that may be in use in all, on the GPU where the model is there; batches shrink to fit. None: no limit.
        causal: Whether no token sees those after it, so that padding needs no mask.
    """

    model: PreTrainedModel
    family: Family
    pad_id: int
    memory: int | None = None
    causal: bool = True
    _obstacles: dict[int, str] = field(default_factory=dict, init=False, repr=False)

    def run(
        self,
        rows: Sequence[TokenRow],
        runs: Sequence[ObservedRun],
        *,
        token_budget: int | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through the model of every run, one run after the other.

        Args:
            rows: Tokenised texts.
            runs: The variants of the model, and who observes.
            token_budget: Tokens that a forward pass may hold at most, padding included; None takes what suits the device.
            advance: Called with the number of tokens done; all of them once a run.

        Raises:
            ConfigError: The longest row does not fit into what the model leaves of the memory that may be used.
        """
        longest = max((len(row.ids) for row in rows), default=1)
        fits, place = None, self.model.device.type
        if self.memory is not None:
            per_token = bytes_per_token(self.model, self.family)
            fits = tokens_that_fit(memory=self.memory, in_use=self._in_use, per_token=per_token, longest=longest)
        if len(rows) > 1 and longest not in self._obstacles:
            self._obstacles[longest] = (
                packing_obstacle(self.model, max_length=longest, room=fits) if place == "cpu" else f"it computes on {place}"
            )
        packed = len(rows) > 1 and not self._obstacles[longest]
        budget = token_budget or tokens_per_pass(self.model.device, packed=packed)
        budget = budget if fits is None else min(budget, fits)
        for run in runs:
            model = run.model(self.model)
            forget_longest_text(model)
            blocks = list(enumerate(block_list(model, self.family)))
            window = max(1, _WINDOW_BYTES // (4 * len(blocks) * self.model.config.hidden_size))
            with run.hooked(blocks), packable(model) if packed else nullcontext(), torch.inference_mode():
                for batch in make_batches(
                    self.model,
                    rows,
                    token_budget=budget,
                    packed=packed,
                    masked=not self.causal,
                    pad_id=self.pad_id,
                    window=window,
                ):
                    with run.observing(batch):
                        batch.run(model)
                    advance(batch.tokens)

    def account(self) -> dict[str, Any]:
        """Return whether rows were laid end to end in the runs so far, and what was against it."""
        obstacle = next(filter(None, self._obstacles.values()), None)
        return {"packing": {"packed": bool(self._obstacles) and obstacle is None, "obstacle": obstacle}}

    @cached_property
    def _in_use(self) -> int:
        """Bytes in use before the first run: what a run frees is there for the next, whether the process keeps it or not."""
        return memory_in_use(self.model.device)
