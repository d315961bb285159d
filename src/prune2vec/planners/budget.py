"""Limits that a plan must meet, whatever the method."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from prune2vec.records.settings import Settings
from prune2vec.records.shape import ModelShape

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_BINARY = {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def parse_amount(value: Any) -> Any:
    """Read ``90M``, ``1.5B`` or ``4GB`` as a number (K, M, G/B are powers of 1000; KiB, MiB, GiB of 1024).

    Raises:
        ValueError: The text is not a number with one of these units.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([\d.]+(?:e\d+)?)\s*([a-z]*)\s*", value.lower())
    units = {**_UNITS, **_BINARY}
    if match is None or match.group(2) not in units:
        raise ValueError(f"expected a number such as 90M, 1.5B or 4GB, got {value!r}")
    return round(float(match.group(1)) * units[match.group(2)])


Amount = Annotated[int, BeforeValidator(parse_amount), Field(gt=0)]


class Budget(Settings):
    """Limits on the encoder; each one left unset does not bind."""

    max_params: Amount | None = None
    """Most parameters, embeddings counted once: 90M, 1.5B."""
    max_layers: int | None = Field(default=None, ge=1)
    """Most layers."""
    max_memory: Amount | None = None
    """Most memory for encoding, estimated from weights and activations: 500MB, 4GB."""
    min_speedup: float | None = Field(default=None, ge=1, allow_inf_nan=False)
    """Least speed-up over the whole model, predicted from FLOPs per token."""

    def allows(self, shape: ModelShape, keep: tuple[int, ...]) -> bool:
        """Return whether a model of ``shape`` that keeps layers ``keep`` meets every limit."""
        whole = tuple(range(shape.num_layers))
        speedup = shape.flops_per_token(whole) / max(1, shape.flops_per_token(keep))
        return (
            (self.max_params is None or shape.params(keep) <= self.max_params)
            and (self.max_layers is None or len(keep) <= self.max_layers)
            and (self.max_memory is None or shape.memory_bytes(keep) <= self.max_memory)
            and (self.min_speedup is None or speedup >= self.min_speedup)
        )

    def set_limits(self) -> dict[str, Any]:
        """Return the limits that are set."""
        return self.model_dump(exclude_none=True)
