"""Every depth of a model in one pass: hooks on the blocks apply the final norm and pool as the pass goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from prune2vec.errors import ProfileError
from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import Batch
from prune2vec.forward.pooling import poolings
from prune2vec.forward.runner import Observer
from prune2vec.models.families import final_modules, states_of

Sink = Callable[[tuple[int, ...], Sequence[int], Tensor], None]
"""Takes layers, numbers of rows, and their pooled vectors (layer, row, dim) in fp32 on the model's device."""


class PooledDepths(Observer):
    """Pools what the model cut to its first k blocks returns: the final norm applied to block k's output.

    Only one block's states are alive at a time beside the pooled vectors.

    Args:
        backbone: The model.
        pooling: Name of a registered pooling.
        sink: Gets the vectors of each batch.
    """

    def __init__(self, backbone: Backbone, pooling: str, sink: Sink) -> None:
        self._backbone = backbone
        self._finals = final_modules(backbone.model, backbone.family)
        self._weigh = poolings.get(pooling)
        self._sink = sink
        self._seen: dict[int, Tensor] = {}

    def begin(self, batch: Batch) -> None:
        """Weigh the tokens of the batch."""
        self._batch = batch
        self._pool = batch.pooler(self._weigh)

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Pool a block's output."""

        def hook(module: nn.Module, args: Any, output: Any) -> None:
            states = states_of(output)
            for final in self._finals:
                states = final(states)
            self._seen[layer] = self._pool(states)

        return [block.register_forward_hook(hook)]

    def end(self) -> None:
        """Hand the batch's vectors on.

        Raises:
            ProfileError: A vector is NaN or infinite; the message names depth, text and dtype.
        """
        seen, self._seen = self._seen, {}
        vectors = torch.stack(list(seen.values()))
        # One number tells of all; which one it was is looked for only then.
        if not torch.isfinite(vectors.sum()) and len(bad := (~torch.isfinite(vectors).all(dim=2)).nonzero()):
            place, row = bad[0].tolist()
            dtype = str(self._backbone.model.dtype).removeprefix("torch.")
            text = str(self._backbone.tokenizer.decode(list(self._batch.rows[row].ids[:12]))).replace("\n", " ")
            raise ProfileError(
                f"NaN or infinity at depth {list(seen)[place] + 1} of {self._backbone.shape.num_layers} in {dtype} for the text "
                f"{text!r}...; use --dtype float32, or check the weights"
            )
        self._sink(tuple(seen), self._batch.places, vectors)
