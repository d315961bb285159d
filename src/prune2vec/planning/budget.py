"""Limits that a plan must meet, whatever the method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field

from prune2vec.amounts import Amount
from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape
from prune2vec.settings import Settings


class Budget(Settings):
    """Limits on the encoder; each one left unset does not bind."""

    max_params: Amount | None = None
    """Most parameters, embeddings counted once: 90M, 1.5B."""
    max_layers: int | None = Field(default=None, ge=1, le=10**4)
    """Most layers; one without attention or without MLP counts as well."""
    max_memory: Amount | None = None
    """Most memory for encoding, estimated from weights and activations: 500MB, 4GB."""
    min_speedup: float | None = Field(default=None, ge=1, le=10**4)
    """Least speed-up over the whole model, predicted from FLOPs per token."""

    def exceeded(self, shape: ModelShape, keep: Iterable[int] | Kept) -> tuple[str, ...]:
        """Return, in words, each limit that is not met by a model of ``shape`` of which ``keep`` stays: need and limit.

        Raises:
            PlanError: Single sub-layers or neurons go, and the model's were not counted.
        """
        kept = Kept.whole(keep)
        found = []
        if self.max_params is not None and (params := shape.params(kept)) > self.max_params:
            found.append(f"{params:,} parameters against at most {self.max_params:,}")
        if self.max_layers is not None and len(kept.layers) > self.max_layers:
            found.append(f"{len(kept.layers)} layers against at most {self.max_layers}")
        if self.max_memory is not None and (memory := shape.memory_bytes(kept)) > self.max_memory:
            found.append(f"{memory:,} bytes against at most {self.max_memory:,}")
        if self.min_speedup is not None and (speedup := speedup_of(shape, kept)) < self.min_speedup:
            found.append(f"a speed-up of {speedup:.4g} against at least {self.min_speedup:.4g}")
        return tuple(found)

    def set_limits(self) -> dict[str, Any]:
        """Return the limits that are set."""
        return self.model_dump(exclude_none=True)


def speedup_of(shape: ModelShape, keep: Iterable[int] | Kept) -> float:
    """Return how many times fewer FLOPs a token needs than in the whole model."""
    return shape.flops_per_token(range(shape.num_layers)) / max(1, shape.flops_per_token(keep))
