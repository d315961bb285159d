"""The variants of a model that are taken through its blocks side by side, each with states of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from prune2vec.backbone.batches import Batch
from prune2vec.backbone.blockfiles import BlockState, with_values
from prune2vec.backbone.passes import Look, watched
from prune2vec.backbone.states import States
from prune2vec.backbone.stem import Call
from prune2vec.families import Family, block_list
from prune2vec.surgery.cut import Cut


@dataclass(frozen=True)
class Slots:
    """The states of one lane among those of all."""

    states: States
    begin: int

    def get(self, number: int) -> Tensor:
        """Return one batch's states."""
        return self.states.get(self.begin + number)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        self.states.put(self.begin + number, states)


class Lane:
    """One look on its way through the blocks of a model without values.

    Args:
        look: The variant, and who watches it.
        model: The model.
        family: Where its blocks are.

    Attributes:
        layers: The layers of the model that the variant has.
    """

    def __init__(self, look: Look, model: PreTrainedModel, family: Family) -> None:
        self._look = look
        kept = look.variant.kept
        self._cut = Cut.of(kept, model) if kept is not None else None
        self._blocks = block_list(look.variant.model(model), family)
        self._path = family.blocks
        self.layers = range(len(self._blocks)) if kept is None else kept.layers

    def share(self, layer: int) -> float:
        """Return the share of the whole way that one layer is."""
        return 1 / len(self.layers) if layer in self.layers else 0.0

    def through(self, layer: int, values: BlockState, batches: Sequence[Batch], states: States, calls: Sequence[Call]) -> None:
        """Take all batches through a block; a layer that the variant does not have changes nothing."""
        if layer not in self.layers:
            return
        place = self.layers.index(layer)
        block = self._blocks[place]
        with with_values(block, self._kept(layer, place, values)), watched(self._look, [(place, block)]):
            for number, (batch, call) in enumerate(zip(batches, calls, strict=True)):
                for watcher in self._look.watchers:
                    watcher.begin(batch)
                states.put(number, call.run(block, states.get(number)))
                for watcher in self._look.watchers:
                    watcher.end()
        for watcher in self._look.watchers:
            watcher.layer_done(place)

    def _kept(self, layer: int, place: int, values: BlockState) -> BlockState:
        if self._cut is None:
            return values
        names = {within: self._cut.rename(f"{self._path}.{layer}.{within}") for within in values}
        return {
            name.removeprefix(f"{self._path}.{place}."): values[within] for within, name in names.items() if name is not None
        }
