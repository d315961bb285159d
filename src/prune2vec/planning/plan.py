"""``plan.json``: what to keep of a model. Frozen data; layer numbers are always those of the original model, 0-based."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from prune2vec.amounts import exact
from prune2vec.errors import ConfigError, PlanError
from prune2vec.files import digest_json, read_json, write_json
from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape
from prune2vec.models.text_settings import TextOptions, TextSettings
from prune2vec.progress import say
from prune2vec.settings import AS_WRITTEN, Layer, read_as

FORMAT = "prune2vec.plan/3"


@dataclass(frozen=True, kw_only=True)
class PruningPlan:
    """Which blocks, sub-layers and neurons of which model stay.

    Attributes:
        model: Name, revision and fingerprint of the model it was made for.
        shape: The sizes of that model before the cut.
        keep_layers: Kept blocks, 0-based numbers of the original model, ascending.
        drop_attention: Kept blocks that lose their attention, ascending.
        drop_mlp: Kept blocks that lose their MLP, ascending.
        width_cut: Share of all neurons of the remaining MLPs that is to be cut (EffiR's rho); which ones is decided by
            ``slim``, after which it is 0 and ``neurons`` says which stayed.
        neurons: By block, the neurons that stay in its MLP, 0-based and ascending; blocks that keep all are left out.
        text: The text settings that were measured with; ``prune`` writes them.
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
    drop_attention: tuple[int, ...] = ()
    drop_mlp: tuple[int, ...] = ()
    width_cut: Fraction = Fraction(0)
    neurons: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    text: TextSettings = field(default_factory=TextSettings)
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
        self._check_sub_layers()
        self._check_widths()

    def _check_sub_layers(self) -> None:
        for what, layers in (("attention", self.drop_attention), ("MLP", self.drop_mlp)):
            stray = [layer for layer in layers if layer not in self.keep_layers]
            if stray or list(layers) != sorted(set(layers)):
                raise PlanError(f"the plan drops the {what} of layers {list(layers)}; expected kept layers, ascending")
        both = set(self.drop_attention) & set(self.drop_mlp)
        if both:
            raise PlanError(f"the plan drops both sub-layers of layer {min(both)}; leave it out of the kept layers instead")
        if set(self.drop_mlp) == set(self.keep_layers):
            raise PlanError("the plan drops every MLP; keep at least one, or fewer layers")

    def _check_widths(self) -> None:
        if not 0 <= self.width_cut < 1:
            raise PlanError(f"the plan cuts a share of {self.width_cut} of the neurons; expected 0 to under 1")
        self.shape.check_can_drop(self.kept)
        for layer, stay in self.neurons.items():
            if layer not in self.kept.mlps:
                raise PlanError(f"the plan keeps neurons in layer {layer}, whose MLP it does not keep")
            width = self.shape.mlp_width[layer]
            if not stay or list(stay) != sorted(set(stay)) or not 0 <= stay[0] <= stay[-1] < width:
                raise PlanError(
                    f"the plan keeps impossible neurons in layer {layer}: expected some of 0 to {width - 1}, ascending"
                )

    @property
    def kept(self) -> Kept:
        """What stays, for counting."""
        return Kept(
            layers=self.keep_layers,
            drop_attention=self.drop_attention,
            drop_mlp=self.drop_mlp,
            width_cut=self.width_cut,
            widths={layer: len(stay) for layer, stay in self.neurons.items()},
        )

    @property
    def num_layers(self) -> int:
        """Number of layers before the cut."""
        return self.shape.num_layers

    @property
    def is_identity(self) -> bool:
        """Whether nothing is cut."""
        return len(self.keep_layers) == self.num_layers and self.kept.whole_blocks

    def slimmed(self, neurons: Mapping[int, tuple[int, ...]], **parameters: Any) -> Self:
        """Return the plan with its width decided: ``neurons`` stay, and ``parameters`` say how they were chosen."""
        return replace(self, width_cut=Fraction(0), neurons=dict(neurons), parameters={**self.parameters, "slim": parameters})

    def with_text(self, options: TextOptions) -> Self:
        """Return the plan with text settings of a verb over its own; says so where they differ."""
        text, changed = self.text.overridden(options)
        if changed:
            say(f"not as the plan was measured: {'; '.join(changed)}")
        return replace(self, text=text)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "format": FORMAT,
            "model": dict(self.model),
            "num_layers": self.num_layers,
            "keep_layers": list(self.keep_layers),
            "drop_attention": list(self.drop_attention),
            "drop_mlp": list(self.drop_mlp),
            "width_cut": str(self.width_cut),
            "neurons": {str(layer): _packed(stay) for layer, stay in sorted(self.neurons.items())},
            "text": self.text.to_json(),
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
            file = read_as(_PlanFile, value)
            shape = ModelShape.from_json(file.shape, where=str(path))
            if file.num_layers not in (None, shape.num_layers):
                raise ValueError(f"num_layers is {file.num_layers}, but shape.num_layers {shape.num_layers}")
            return cls(
                shape=shape,
                width_cut=exact(str(file.width_cut)),
                neurons={layer: _unpacked(bits) for layer, bits in file.neurons.items()},
                text=TextSettings.build(file.text, where="text"),
                **{name: getattr(file, name) for name in _AS_THEY_ARE},
            )
        except (ConfigError, PlanError) as error:
            raise PlanError(f"{path}: {error}") from error
        except ValueError as error:
            raise PlanError(f"{path}: broken plan ({error}); make it again with prune2vec plan") from error


@dataclass(frozen=True, kw_only=True)
class _PlanFile:
    """A plan as its file has it; a person may have written ``width_cut`` as a number."""

    __pydantic_config__ = AS_WRITTEN

    format: str
    model: dict[str, str | None]
    keep_layers: tuple[int, ...]
    drop_attention: tuple[int, ...]
    drop_mlp: tuple[int, ...]
    width_cut: str | int | float
    neurons: dict[Layer, str]
    method: str
    parameters: dict[str, Any]
    notes: tuple[str, ...]
    profile_digest: str
    shape: Any
    text: Any
    num_layers: Layer | None = None


_AS_THEY_ARE = ("model", "keep_layers", "drop_attention", "drop_mlp", "method", "parameters", "notes", "profile_digest")


def _packed(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers as a bit each, in base64: 14,336 neurons are 2.4 kB."""
    bits = bytearray(numbers[-1] // 8 + 1)
    for number in numbers:
        bits[number // 8] |= 1 << number % 8
    return base64.b64encode(bits).decode("ascii")


def _unpacked(text: str) -> tuple[int, ...]:
    bits = base64.b64decode(text, validate=True)
    return tuple(8 * place + bit for place, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1)
