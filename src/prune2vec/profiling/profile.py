"""``profile.json``: what each depth of a model is worth, and everything needed to measure it again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Self

from pydantic import AfterValidator, FiniteFloat

from prune2vec.errors import ProfileError
from prune2vec.files import digest_json
from prune2vec.models.kept import KINDS
from prune2vec.models.shape import ModelShape
from prune2vec.models.text_settings import TextSettings, WrittenText
from prune2vec.settings import AS_WRITTEN, Record, Size, read_as

MeasuredShape = Annotated[ModelShape, AfterValidator(ModelShape.checked)]
"""A model's shape in a file, whose sizes must fit each other too."""


@dataclass(frozen=True, kw_only=True)
class LayerLoss:
    """The layer-wise zero-shot contrastive loss (L3Prune, section 3) and its companions; index 0 is depth 1.

    Attributes:
        loss: Mean over the groups of the contrastive loss at each depth.
        std_error: Standard error of that mean, from the spread over groups (0 with one group).
        accuracy: Share of queries whose own positive scores highest among all candidates of the group.
        alignment: Mean squared distance of normalised query and positive (Wang and Isola, 2020); lower is better.
        uniformity: Log of the mean Gaussian potential over pairs of normalised texts; lower is better.
        group_loss: The loss of each group at each depth: ``group_loss[group][depth - 1]``.
    """

    __pydantic_config__ = AS_WRITTEN

    loss: tuple[float, ...]
    std_error: tuple[float, ...]
    accuracy: tuple[float, ...]
    alignment: tuple[float, ...]
    uniformity: tuple[float, ...]
    group_loss: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Profile(Record):
    """A measured model.

    Attributes:
        model: Name, revision and fingerprint of the model: ``{"name", "revision", "fingerprint"}``.
        shape: Its sizes.
        layer_loss: The layer-loss curve; up to the setting ``max_depth`` where the measurement was stopped early.
        sections: What other scorers measured, by the scorer's name.
        texts: Which texts were used: source, digest, and how many there are and were used.
        text: How texts became vectors; plans carry it on, and ``prune`` writes it.
        settings: Every other setting of the measurement, resolved (dtype, scale, seed, ...).
        environment: Versions of the libraries and the kind of machine.

    Raises:
        ProfileError: When built with a curve of another length than the model, or with NaN or infinity anywhere.
    """

    FORMAT = "prune2vec.profile/2"
    KIND = "profile"
    ERROR = ProfileError

    model: Mapping[str, str | None]
    shape: MeasuredShape
    layer_loss: LayerLoss
    sections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    texts: Mapping[str, Any] = field(default_factory=dict)
    text: WrittenText = field(default_factory=TextSettings)
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a curve that no planner could read: NaN would win or lose every comparison without a word."""
        curve = self.layer_loss
        rows = {name: row for name, row in vars(curve).items() if name != "group_loss"}
        rows |= {f"group_loss[{group}]": row for group, row in enumerate(curve.group_loss)}
        depths = self.settings.get("max_depth") or self.shape.num_layers
        if type(depths) is not int:
            raise ProfileError(f"settings.max_depth is {depths!r}; expected a number of layers; measure it again")
        for name, row in rows.items():
            if len(row) != depths:
                early = "" if depths == self.shape.num_layers else f" of which {depths} were measured"
                raise ProfileError(
                    f"{name} has {len(row)} values for a model of {self.shape.num_layers} layers{early}; measure it again"
                )
            bad = next((depth for depth, value in enumerate(row, start=1) if not math.isfinite(value)), None)
            if bad is not None:
                raise ProfileError(f"{name} is {row[bad - 1]} at depth {bad}; measure it again, with --dtype float32")
        for name, section in self.sections.items():
            place = _not_finite(section)
            if place is not None:
                raise ProfileError(f"{name}: {place}; measure it again, with --dtype float32")

    @property
    def depths(self) -> int:
        """The deepest depth that was measured: the number of layers, unless the measurement was stopped early."""
        return len(self.layer_loss.loss)

    def check_measured(self, depths: Iterable[int]) -> None:
        """Refuse, with a ``ProfileError``, to choose among depths beyond the one at which the measurement was stopped."""
        last = max(depths, default=0)
        if last > self.depths:
            raise ProfileError(
                f"the profile stops at depth {self.depths} of {self.shape.num_layers} (max_depth), and this choice needs depth "
                f"{last}; measure it again with a deeper max_depth, or without one"
            )

    def section(self, name: str) -> Mapping[str, Any]:
        """Return what another scorer measured; if it was not run, a ``ProfileError`` names all that has to be measured."""
        if name not in self.sections:
            # A run writes a new profile: what this one has would be lost unless it is asked for again.
            raise ProfileError(
                f"the profile has no {name} (it has {', '.join(('layer-loss', *self.sections))}); "
                f"measure it with prune2vec profile --scorers {','.join((*self.sections, name))}"
            )
        return self.sections[name]

    @property
    def digest(self) -> str:
        """SHA-256 of what was measured and how (versions and machine aside)."""
        return digest_json({key: value for key, value in self.to_json().items() if key != "environment"})


def _not_finite(value: Any, place: str = "") -> str | None:
    """Return where in a section of a profile the first number is that is NaN or infinite: ``"mlp is nan at layer 3"``."""
    if isinstance(value, Mapping):
        inner = [(f"{place}.{key}".removeprefix("."), item) for key, item in value.items()]
        return next((found for at, item in inner if (found := _not_finite(item, at)) is not None), None)
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            if isinstance(item, float) and not math.isfinite(item):
                return f"{place} is {item} at layer {number}"
        return next((found for n, item in enumerate(value) if (found := _not_finite(item, f"{place}[{n}]")) is not None), None)
    return f"{place} is {value}" if isinstance(value, float) and not math.isfinite(value) else None


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """Importance 1 - cos(x_in, x_out) of every sub-layer, mean over tokens; low means redundant; index 0 is layer 0.

    ``tokens`` is how many are in the mean, ``texts`` what they belong to: ``retrieval`` or ``plain``.
    """

    attention: tuple[FiniteFloat, ...]
    mlp: tuple[FiniteFloat, ...]
    block: tuple[FiniteFloat, ...]
    tokens: Size
    texts: str

    @classmethod
    def from_json(cls, section: Mapping[str, Any]) -> Self:
        """Read a section that the scorers ``redundancy`` or ``redundancy-plain`` made.

        Raises:
            ProfileError: It is something else, or its rows differ in length or hold NaN or infinity.
        """
        try:
            found = read_as(cls, section)
        except ValueError as error:
            raise ProfileError(f"broken redundancy section ({error}); measure it again with prune2vec profile") from error
        if len({len(found.row(kind)) for kind in KINDS}) > 1:
            raise ProfileError("redundancy section with rows of different length; measure it again")
        return found

    def row(self, kind: str) -> tuple[float, ...]:
        """Return the importance of all sub-layers of a kind (one of ``KINDS``)."""
        row: tuple[float, ...] = getattr(self, kind)
        return row

    def order(self, kind: str) -> tuple[int, ...]:
        """Return the layers, most redundant first."""
        return most_redundant_first(dict(enumerate(self.row(kind))))


def most_redundant_first(importance: Mapping[int, float]) -> tuple[int, ...]:
    """Return the layers of ``importance`` in the order in which they are to be dropped.

    LLM-Drop, whose order EffiR uses, sorts by value alone, so equal values fall as the sort has it. Here the later layer
    goes first, as the later ones of both papers' models are the redundant ones.
    """
    return tuple(sorted(importance, key=lambda layer: (importance[layer], -layer)))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation (equal values share a rank), or None where one row is constant."""
    from scipy.stats import spearmanr  # Here, as those who only read a profile do without.

    return float(spearmanr(first, second).statistic) if len(set(first)) > 1 < len(set(second)) else None
