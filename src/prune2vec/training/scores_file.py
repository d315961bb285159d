"""Scores of neurons on disk, so that another share can be cut without ranking again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from prune2vec.errors import DataError, reason_of
from prune2vec.files import write_bytes

FORMAT = "prune2vec.scores/2"


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Scores, and where they come from.

    Attributes:
        scores: By original layer, a float32 number a neuron.
        identity: What they depend on: model, what is kept of it, texts and settings.
        facts: What the ranking noted.
    """

    scores: Mapping[int, NDArray[np.float32]]
    identity: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the scores as safetensors, whole or not at all; what else there is goes into the header.

        Raises:
            CheckpointError: The file cannot be written.
        """
        about = {"format": FORMAT, "identity": json.dumps(self.identity), "facts": json.dumps(self.facts)}
        write_bytes(path, save({str(layer): values for layer, values in self.scores.items()}, metadata=about))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read back what ``save`` wrote.

        Raises:
            DataError: The file is missing or is something else.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT:
                    raise DataError(f"{path}: no scores of neurons (expected format {FORMAT!r}); prune2vec slim writes them")
                scores = {int(name): file.get_tensor(name) for name in sorted(file.keys(), key=int)}
                return cls(scores=scores, identity=json.loads(about["identity"]), facts=json.loads(about["facts"]))
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise DataError(f"cannot read the scores in {path}: {reason_of(error)}") from error


def scores_beside(plan: Path, ranking: str) -> Path:
    """Return where a ranking's scores for a plan lie: ``slim-plan.gates.scores.safetensors`` for ``slim-plan.json``."""
    return plan.with_name(f"{plan.stem}.{ranking}.scores.safetensors")
