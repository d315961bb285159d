"""``plan.json``: what to keep of a model. Frozen data; layer numbers are always those of the original model, 0-based."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from prune2vec.errors import PlanError
from prune2vec.models.kept import Kept, check_keep
from prune2vec.models.text_settings import TextOptions, TextSettings, WrittenText
from prune2vec.planning.shares import exact
from prune2vec.profiling.profile import MeasuredShape
from prune2vec.progress import say
from prune2vec.settings import AS_WRITTEN, Layer, Record, Size


def _packed(numbers: tuple[int, ...]) -> str:
    """Write ascending numbers as a bit each, in base64: 14,336 neurons are 2.4 kB, 262,144 tokens 44 kB."""
    bits = bytearray(numbers[-1] // 8 + 1)
    for number in numbers:
        bits[number // 8] |= 1 << number % 8
    return base64.b64encode(bits).decode("ascii")


def _unpacked(text: Any) -> Any:
    if not isinstance(text, str):
        raise ValueError(f"expected numbers in base64, got {text!r:.60}")
    bits = base64.b64decode(text, validate=True)
    return tuple(8 * place + bit for place, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1)


NumberBits = Annotated[tuple[int, ...], BeforeValidator(_unpacked), PlainSerializer(_packed)]
# A person may have written a share as a number.
ExactShare = Annotated[Fraction, PlainValidator(lambda share: exact(str(share))), PlainSerializer(str)]


Count = Annotated[int, Field(ge=1, le=10**18)]


@dataclass(frozen=True, kw_only=True)
class VocabularyCut:
    """Which tokens of a model stay, and what that does to the texts that they were counted on.

    Attributes:
        kept: Numbers of the tokens that stay, ascending.
        digest: Of these tokens by number, so that another tokeniser's are not taken for them.
        texts: Texts that were counted, each as long as an encoder reads it.
        changed: How many of these have a token that goes, so that they are spelt otherwise.
        tokens_before: Their tokens, those that the tokeniser puts around texts among them.
        tokens_after: The same with the tokens that stay.
    """

    __pydantic_config__ = AS_WRITTEN

    kept: NumberBits
    digest: str
    texts: Count
    changed: Size
    tokens_before: Count
    tokens_after: Count


@dataclass(frozen=True, kw_only=True)
class PruningPlan(Record):
    """Which blocks, sub-layers and neurons of which model stay.

    Attributes:
        model: Name, revision and fingerprint of the model it was made for.
        keep_layers: Kept blocks, 0-based numbers of the original model, ascending.
        drop_attention: Kept blocks that lose their attention, ascending.
        drop_mlp: Kept blocks that lose their MLP, ascending.
        width_cut: Share of all neurons of the remaining MLPs that is to be cut (EffiR's rho); which ones is decided by
            ``slim``, after which it is 0 and ``neurons`` says which stayed.
        neurons: By block, the neurons that stay in its MLP, 0-based and ascending; blocks that keep all are left out.
        vocabulary: Which tokens stay; None for all.
        text: The text settings that were measured with; ``prune`` writes them.
        method: Name of the planner.
        parameters: Its parameters and the budget.
        notes: What a reader should know about the pick: a near tie, a minimum at the edge, no cut at all.
        profile_digest: Digest of the profile it was made from.
        shape: The sizes of the model before the cut.

    Raises:
        PlanError: When built with layers that are missing, repeated, out of order or beyond the model.
    """

    FORMAT = "prune2vec.plan/3"
    KIND = "plan"
    ERROR = PlanError
    COMPUTED = ("num_layers",)
    LATER = ("vocabulary",)

    model: Mapping[str, str | None]
    keep_layers: tuple[int, ...]
    drop_attention: tuple[int, ...] = ()
    drop_mlp: tuple[int, ...] = ()
    width_cut: ExactShare = Fraction(0)
    neurons: Mapping[Layer, NumberBits] = field(default_factory=dict)
    vocabulary: VocabularyCut | None = None
    text: WrittenText = field(default_factory=TextSettings)
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    profile_digest: str = ""
    shape: MeasuredShape

    def __post_init__(self) -> None:
        """Refuse a plan that no model could follow."""
        keep = self.keep_layers
        check_keep(keep, self.num_layers)
        for what, layers in (("attention", self.drop_attention), ("MLP", self.drop_mlp)):
            if not (set(layers) <= set(keep) and _ascends(layers)):
                raise PlanError(f"the plan drops the {what} of layers {list(layers)}; expected kept layers, ascending")
        both = set(self.drop_attention) & set(self.drop_mlp)
        if both:
            raise PlanError(f"the plan drops both sub-layers of layer {min(both)}; leave it out of the kept layers instead")
        if self.drop_mlp == keep:
            raise PlanError("the plan drops every MLP; keep at least one, or fewer layers")
        self._check_widths()
        if self.vocabulary is not None:
            tokens, rows = self.vocabulary.kept, self.shape.token_rows
            if not (tokens and _ascends(tokens) and tokens[-1] < rows):
                raise PlanError(f"the plan keeps impossible tokens; expected some of 0 to {rows - 1}, ascending")

    def _check_widths(self) -> None:
        if not 0 <= self.width_cut < 1:
            raise PlanError(f"the plan cuts a share of {self.width_cut} of the neurons; expected 0 to under 1")
        self.shape.check_can_drop(self.kept)
        for layer, stay in self.neurons.items():
            if layer not in self.kept.mlps:
                raise PlanError(f"the plan keeps neurons in layer {layer}, whose MLP it does not keep")
            width = self.shape.mlp_width[layer]
            if not (stay and _ascends(stay) and 0 <= stay[0] <= stay[-1] < width):
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
            vocabulary=len(self.vocabulary.kept) if self.vocabulary is not None else None,
        )

    @property
    def num_layers(self) -> int:
        """Number of layers before the cut."""
        return self.shape.num_layers

    @property
    def keeps_all(self) -> bool:
        """Whether every layer, neuron and token stays."""
        return self.kept == Kept.whole(range(self.num_layers))

    def slimmed(self, neurons: Mapping[int, tuple[int, ...]], **parameters: Any) -> Self:
        """Return the plan with its width decided: ``neurons`` stay, and ``parameters`` say how they were chosen."""
        return replace(self, width_cut=Fraction(0), neurons=dict(neurons), parameters={**self.parameters, "slim": parameters})

    def with_text(self, options: TextOptions) -> Self:
        """Return the plan with text settings of a verb over its own; says so where they differ."""
        text, changed = self.text.overridden(options)
        if changed:
            say(f"not as the plan was measured: {'; '.join(changed)}")
        return replace(self, text=text)


def _ascends(numbers: tuple[int, ...]) -> bool:
    return list(numbers) == sorted(set(numbers))
