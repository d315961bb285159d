"""What other depth-pruning methods measure of blocks: their magnitude, and how far the residual stream turns across several."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.hooks import RemovableHandle

from prune2vec.errors import ProfileError, nan_remedy
from prune2vec.forward.backbone import Backbone
from prune2vec.forward.batches import Batch
from prune2vec.forward.pooling import lasttoken
from prune2vec.machine import widest_dtype
from prune2vec.models.families import states_of
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.measure import Measured, Measurement, scorers
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import TokenGroup, distinct_rows

# Of the last tokens' states at every layer; texts beyond that are left out.
_STATES_BYTES = 256 << 20


@scorers.register("magnitude")
def score_magnitude(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Magnitude of what each block adds, relative to the stream, and of its weights."""
    (found,) = yield [BlockMagnitude(backbone, distinct_rows(groups))]
    return found  # type: ignore[no-any-return]


@scorers.register("angular-distance")
def score_angular(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Measured:
    """Angle between the last token's states before and after every run of blocks (Gromov et al.)."""
    (found,) = yield [AngularDistance(backbone, distinct_rows(groups))]
    return found  # type: ignore[no-any-return]


class _BlockObserver(Measurement):
    """Sees the stream before and after each block, whatever is inside it, and takes one tensor a block and batch of it."""

    def __init__(self, backbone: Backbone, rows: Sequence[TokenRow]) -> None:
        self.rows = tuple(rows)
        self.key = type(self).__name__
        self._dtype = str(backbone.model.dtype).removeprefix("torch.")
        self._seen: dict[int, Tensor] = {}

    def hooks(self, layer: int, block: nn.Module) -> list[RemovableHandle]:
        """Watch a block."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._seen[layer] = self.see(layer, module, args[0] if args else kwargs["hidden_states"], states_of(output))

        return [block.register_forward_hook(hook, with_kwargs=True)]

    @abstractmethod
    def see(self, layer: int, block: nn.Module, before: Tensor, after: Tensor) -> Tensor:
        """Return what is wanted of the states (batch, position, dim) before and after block number ``layer``."""

    @abstractmethod
    def take(self, layer: int, value: Tensor) -> None:
        """Take in what ``see`` returned, on the CPU."""

    def end(self) -> None:
        """Take in the batch; what is NaN or infinite is a ``ProfileError``."""
        seen, self._seen = self._seen, {}
        for layer, value in seen.items():
            found = value.cpu()
            if not torch.isfinite(found).all():
                raise ProfileError(f"NaN or infinity at layer {layer} in {self._dtype}; {nan_remedy(self._dtype)}")
            self.take(layer, found)


class BlockMagnitude(_BlockObserver):
    """Of each block F the mean of ``||F(x)|| / ||x + F(x)||`` over all tokens, and the sum of its weights' absolute values."""

    def __init__(self, backbone: Backbone, rows: Sequence[TokenRow]) -> None:
        super().__init__(backbone, rows)
        self._sums: dict[int, float] = {}
        self._weights: dict[int, float] = {}

    def begin(self, batch: Batch) -> None:
        """Note which tokens are real."""
        self._real = batch.real

    def see(self, layer: int, block: nn.Module, before: Tensor, after: Tensor) -> Tensor:
        """Return the sum of the ratio over the batch's tokens."""
        if layer not in self._weights:
            # Here, as the values of a streamed block are there while it runs.
            self._weights[layer] = sum(
                float(weight.detach().abs().sum(dtype=widest_dtype(weight.device))) for weight in block.parameters()
            )
        added = torch.linalg.vector_norm(after.float() - before.float(), dim=-1)
        ratio = added / torch.linalg.vector_norm(after.float(), dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        total: Tensor = ratio.masked_fill(~self._real, 0).sum(dtype=widest_dtype(ratio.device))
        return total

    def take(self, layer: int, value: Tensor) -> None:
        """Add up one batch."""
        self._sums[layer] = self._sums.get(layer, 0.0) + float(value)

    def result(self) -> dict[str, Any]:
        """Return both by layer, and the number of tokens."""
        relative = [self._sums[layer] / self.tokens for layer in sorted(self._sums)]
        return {"relative": relative, "weight": [self._weights[layer] for layer in sorted(self._sums)], "tokens": self.tokens}


class AngularDistance(_BlockObserver):
    """``d(l, n) = arccos(cos(x_l, x_l+n)) / pi`` of each text's last token, x_l what block l is given (arXiv 2403.17887, section 3).

    The final norm does not count: x after the last block is what that block returns. States of so many texts as fit into
    256 MiB are kept, the first ones.
    """

    def __init__(self, backbone: Backbone, rows: Sequence[TokenRow]) -> None:
        super().__init__(backbone, rows)
        width = int(backbone.model.config.hidden_size)
        layers = backbone.shape.num_layers
        texts = max(1, min(len(self.rows), _STATES_BYTES // (4 * (layers + 1) * width)))
        self._states = torch.empty(layers + 1, texts, width)

    def begin(self, batch: Batch) -> None:
        """Note where the rows of the batch belong, and where each ends."""
        self._pool = batch.pooler(lasttoken)
        places = [(number, place) for number, place in enumerate(batch.places) if place < self._states.shape[1]]
        self._from, self._to = [number for number, _ in places], [place for _, place in places]

    def see(self, layer: int, block: nn.Module, before: Tensor, after: Tensor) -> Tensor:
        """Return the last tokens' states after the block, and for the first one those before it too."""
        states = (before, after) if layer == 0 else (after,)
        return torch.stack([self._pool(some)[self._from] for some in states])

    def take(self, layer: int, value: Tensor) -> None:
        """Keep the states."""
        self._states[layer + 2 - len(value) : layer + 2, self._to] = value

    def result(self) -> dict[str, Any]:
        """Return the distances, ``distance[l][n - 1]``, and the number of texts."""
        units = normalize(self._states.double(), dim=-1)
        # Not by the arc cosine, which has no figures left where two hardly differ.
        rows = [
            [
                float((2 * torch.atan2((one - two).norm(dim=-1), (one + two).norm(dim=-1))).mean()) / math.pi
                for two in units[place:]
            ]
            for place, one in enumerate(units[:-1], start=1)
        ]
        return {"distance": rows, "texts": units.shape[1]}
