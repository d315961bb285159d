"""The texts on which a written encoder must agree with the one in memory, and the record of how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import CheckpointError

# Short and long, code, digits after blanks, several scripts, trailing white space: where tokenisers and masks go wrong.
PROBE_TEXTS: tuple[str, ...] = (
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "in  2024,   365 days; 12  34",
    "def add(a, b):\n    return a + b\n",
    "naïve café, Zürich — ¿qué?",
    "東京は日本の首都です。",
    "How do I read a file line by line?  ",
    "Vectors of similar texts point the same way. " * 12,
    "One long passage, longer than any encoder reads. " * 120,
)
FLOAT32_TOLERANCE = 1e-4
LOW_PRECISION_TOLERANCE = 3e-2


def probe_prompts(prompts: Mapping[str, str]) -> list[str]:
    """Return the prompts to compare under: none, and each different one of the encoder."""
    return list(dict.fromkeys(("", *prompts.values())))


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the reloaded encoder is from the reference on the probe texts.

    Attributes:
        reference: What it was compared with.
        texts: Number of texts, with and without prompts.
        dtype: Of the comparison.
        max_difference: Largest absolute difference of a vector's entries.
        min_cosine: Smallest cosine between the two vectors of one text.
    """

    reference: str
    texts: int
    dtype: str
    max_difference: float
    min_cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def compare_vectors(
    reference: NDArray[np.float32], reloaded: NDArray[np.float32], *, named: str, dtype: str = "float32"
) -> Parity:
    """Compare two (text, dim) arrays.

    Raises:
        CheckpointError: They differ by more than rounding, or a vector is NaN or infinite.
    """
    if reference.shape != reloaded.shape:
        raise CheckpointError(f"the reloaded encoder gives vectors of shape {reloaded.shape}, {named} gives {reference.shape}")
    if not (np.isfinite(reference).all() and np.isfinite(reloaded).all()):
        raise CheckpointError(f"NaN or infinity in the vectors of the written encoder or of {named} ({dtype})")
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(reloaded, axis=1)
    if not norms.all():
        raise CheckpointError(
            f"a zero vector from the written encoder or from {named}: no token of a text was pooled; nothing was kept"
        )
    cosine = (reference * reloaded).sum(axis=1) / norms
    parity = Parity(
        reference=named,
        texts=len(reference),
        dtype=dtype,
        max_difference=float(np.abs(reference - reloaded).max()),
        min_cosine=float(cosine.min()),
    )
    scale = max(1.0, float(np.abs(reference).max()))
    allowed = scale * (FLOAT32_TOLERANCE if dtype == "float32" else LOW_PRECISION_TOLERANCE)
    if parity.max_difference > allowed:
        raise CheckpointError(
            f"the written encoder differs from {named} by {parity.max_difference:.2g} (allowed: {allowed:.0e}); nothing was kept"
        )
    return parity
