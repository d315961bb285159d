"""``plan.json``: what to keep of a model. Frozen data; layer numbers are always those of the original model, 0-based."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from prune2vec.errors import PlanError
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.records.shape import ModelShape

FORMAT = "prune2vec.plan/1"


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """Which blocks of which model stay.

    Attributes:
        model: Name, revision and fingerprint of the model it was made for.
        shape: The sizes of that model before the cut.
        keep_layers: Kept blocks, 0-based numbers of the original model, ascending.
        method: Name of the planner.
        parameters: Its parameters and the budget.
        notes: What a reader should know about the pick: a near tie, a minimum at the edge, no cut at all.
        profile_digest: Digest of the profile it was made from.

    Raises:
        PlanError: When built with layers that are missing, repeated, out of order or beyond the model.
    """

    model: Mapping[str, str | None]
    shape: ModelShape
    keep_layers: tuple[int, ...]
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    profile_digest: str = ""

    def __post_init__(self) -> None:
        """Refuse a plan that no model could follow."""
        last = self.num_layers - 1
        if not self.keep_layers:
            raise PlanError(f"the plan keeps no layer; keep 1 to {self.num_layers}")
        beyond = [layer for layer in self.keep_layers if not 0 <= layer <= last]
        if beyond:
            raise PlanError(f"the plan keeps layer {beyond[0]}, but {self.model.get('name')} has layers 0 to {last}")
        if list(self.keep_layers) != sorted(set(self.keep_layers)):
            raise PlanError(f"kept layers must ascend without repeats, got {list(self.keep_layers)}")

    @property
    def num_layers(self) -> int:
        """Number of layers before the cut."""
        return self.shape.num_layers

    @property
    def is_identity(self) -> bool:
        """Whether nothing is cut."""
        return len(self.keep_layers) == self.num_layers

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "format": FORMAT,
            "model": dict(self.model),
            "num_layers": self.num_layers,
            "keep_layers": list(self.keep_layers),
            "method": self.method,
            "parameters": dict(self.parameters),
            "notes": list(self.notes),
            "profile_digest": self.profile_digest,
            "shape": self.shape.to_json(),
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the plan."""
        return digest_json(self.to_json())

    def save(self, path: Path) -> None:
        """Write ``plan.json``, whole or not at all."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a plan file.

        Raises:
            DataError: The file is missing or not JSON.
            PlanError: It is JSON but not a plan of this version, or its layers do not fit its model.
        """
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise PlanError(f"{path}: not a plan (expected format {FORMAT!r}); make one with prune2vec plan")
        try:
            return cls(
                model=dict(value["model"]),
                shape=ModelShape.from_json(value["shape"], where=str(path)),
                keep_layers=tuple(int(layer) for layer in value["keep_layers"]),
                method=value["method"],
                parameters=dict(value["parameters"]),
                notes=tuple(value["notes"]),
                profile_digest=value["profile_digest"],
            )
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"{path}: broken plan ({error}); make it again with prune2vec plan") from error
