"""What runs through a model and who watches: one protocol for a model in memory and for one that is read block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from prune2vec.forward.batches import Batch, PaddingSide
from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from prune2vec.models.sublayers import Neurons
from prune2vec.models.tokens import TokenRow

Advance = Callable[[float], None]


class Observer(ABC):
    """Sees the states inside blocks while texts run through them.

    For every batch: ``begin``, then the blocks run with this watcher's hooks on them, then ``end``. A model in memory runs
    all its blocks between the two, one that is streamed a single block; ``layer_done`` follows when all rows have passed a
    layer. So a watcher keeps only what it needs of the batch until ``end``, and of the layer until ``layer_done``.
    """

    @abstractmethod
    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Hook block number ``layer`` of the model that is watched; the caller removes the hooks."""

    def begin(self, batch: Batch) -> None:  # noqa: B027
        """Note which rows run next."""

    def end(self) -> None:  # noqa: B027
        """Take in what the hooks saw of the batch."""

    def layer_done(self, layer: int) -> None:  # noqa: B027
        """All rows have passed this layer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelVariant:
    """The model, or a cut of it that shares its weights.

    Attributes:
        kept: What stays; None for everything. Layers are numbered anew from 0 for those who watch.
        neurons: Where the MLPs keep their neurons, if some are silent.
        speaking: By layer, which neurons are not silent; empty for all.
    """

    kept: Kept | None = None
    neurons: Neurons | None = None
    speaking: Sequence[Bool[Tensor, " neuron"]] = ()

    def model(self, whole: PreTrainedModel) -> PreTrainedModel:
        """Return the cut model; it shares its weights, or their absence, with ``whole``."""
        return whole if self.kept is None else cut_model(whole, self.kept, share=True)

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Silence neurons of a block of the variant's model; the caller removes the hooks."""
        if self.neurons is None or not self.speaking:
            return []
        on = self.speaking[layer]

        def silence(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0] * on.to(device=args[0].device, dtype=args[0].dtype), *args[1:])

        return [block.get_submodule(self.neurons.out).register_forward_pre_hook(silence)]


@dataclass(frozen=True, kw_only=True)
class ObservedRun:
    """A variant of the model, and who watches it."""

    watchers: Sequence[Observer]
    variant: ModelVariant = field(default_factory=ModelVariant)


@contextmanager
def observed(look: ObservedRun, layers: Sequence[tuple[int, nn.Module]]) -> Iterator[None]:
    """Hook these blocks of the look's model for its variant and its watchers while the context is open."""
    handles: list[RemovableHandle] = []
    try:
        for layer, block in layers:
            handles += look.variant.hooks(layer, block)
            for watcher in look.watchers:
                handles += watcher.hooks(layer, block)
        yield
    finally:
        for handle in handles:
            handle.remove()


class ModelRunner(Protocol):
    """A model that rows can be run through."""

    def run(
        self,
        rows: Sequence[TokenRow],
        looks: Sequence[ObservedRun],
        *,
        token_budget: int | None = None,
        padding_side: PaddingSide | None = None,
        advance: Advance = lambda amount: None,
    ) -> None:
        """Run all rows through every look's variant of the model.

        Args:
            rows: Tokenised texts.
            looks: What is looked at.
            token_budget: Tokens that a forward pass may hold at most, padding included; None takes what suits the device.
            padding_side: Side on which shorter rows are filled up; None fills up none where that is possible and pays.
            advance: Called with the number of tokens done; all of them once a look.
        """
        ...

    def account(self) -> dict[str, Any]:
        """Return what a record should tell of the runs so far."""
        ...
