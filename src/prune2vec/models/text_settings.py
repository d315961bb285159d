"""How a text becomes tokens and tokens one vector: one record, measured with, carried in plans, written by ``prune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from prune2vec.data.instructions import Symmetric
from prune2vec.errors import ConfigError, DataError
from prune2vec.settings import Settings

PAPER_POOLING = "weightedmean-paper"
CLS = "cls"
E5, SAVED = "e5", "saved"
_WORDS = ("none", E5, "effir", SAVED)
# Settings that only an encoder given as the model has, and that files of language models leave out.
_OF_ENCODERS = ("lower_case", "heads", "truncate_dim", "similarity", "matryoshka_dims")

Pooling = Literal["weightedmean", "mean", "lasttoken", "cls", "max", "mean_sqrt_len_tokens", "weightedmean-paper"]
AppendEos = Literal["auto", "on", "off"]
Wrapper = Literal["none", "chat"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]


def _one_spelling(instruction: str) -> str:
    """Return an instruction that is a word of ours as we write it, and any other as it is."""
    word = instruction.strip().lower() or "none"
    return word if word in _WORDS else instruction


Instruction = Annotated[str, AfterValidator(_one_spelling)]


class Head(Settings):
    """One of an encoder's modules behind the pooling, by which it is known again.

    Attributes:
        kind: sentence-transformers' name of its class.
        config: Its own settings, such as ``in_features``, under sentence-transformers' names.
        digest: SHA-256 of its weights; empty where it has none.
    """

    kind: Literal["Dense", "LayerNorm", "Dropout", "Normalize"]
    config: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    digest: str = ""


class TextSettings(Settings):
    """The text settings of a profile, a plan and an encoder, every one decided; ``TextOptions`` says what they mean.

    Attributes:
        include_prompt: Whether the tokens of a prompt are pooled.
        prompts: Prompts by name that an encoder given as the model brought along; they count where instruction is ``saved``.
        default_prompt: Which of them applies when none is asked for.
        lower_case: Whether the encoder given as the model lowers the case of its texts.
        heads: Its modules behind the pooling, in order; the L2 normalisation at the end is ``normalize``.
        truncate_dim: So many leading dimensions of a vector count; None for all of them.
        similarity: How two vectors are compared.
        matryoshka_dims: Dimensions to which its card says that its vectors can be cut.
    """

    pooling: Pooling = "weightedmean"
    append_eos: AppendEos = "auto"
    instruction: Instruction = "none"
    symmetric: Symmetric | None = None
    wrapper: Wrapper = "none"
    separator: str = "\n"
    max_length: int = Field(512, ge=8, le=2**24)
    normalize: bool = True
    include_prompt: bool = False
    prompts: Mapping[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None
    lower_case: bool = False
    heads: tuple[Head, ...] = ()
    truncate_dim: int | None = Field(None, ge=1, le=2**31)
    similarity: Similarity = "cosine"
    matryoshka_dims: tuple[Annotated[int, Field(ge=1, le=2**31)], ...] = ()

    def overridden(self, options: TextOptions) -> tuple[Self, list[str]]:
        """Return the settings with what ``options`` set in its place, and in words what that changed.

        An instruction of one's own replaces an encoder's prompts.
        """
        given = {name: getattr(options, name) for name in TextOptions.model_fields}
        changed = {name: value for name, value in given.items() if value not in (None, getattr(self, name))}
        words = [f"{name} {value!r} instead of {getattr(self, name)!r}" for name, value in changed.items()]
        if "pooling" in changed and self.heads:
            words.append(
                f"its heads ({', '.join(head.kind for head in self.heads)}) were trained behind {self.pooling} pooling"
            )
        if changed.get("instruction", SAVED) != SAVED:
            changed |= {"prompts": {}, "default_prompt": None}
        if changed.get("pooling") == CLS:
            # Behind a prompt that is left out, runtimes take different tokens for the first.
            changed |= {"include_prompt": True}
        return self.model_copy(update=changed), words

    @field_validator("heads", "matryoshka_dims", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        """Take the lists of a file, which is read strictly."""
        return tuple(value) if isinstance(value, list) else value

    @model_serializer(mode="wrap")
    def _as_written(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what no encoder brought, so that the records of language models are those of earlier releases."""
        found: dict[str, Any] = written(self)
        unset = {name for name in _OF_ENCODERS if getattr(self, name) == TextSettings.model_fields[name].default}
        return {name: value for name, value in found.items() if name not in unset}


def _whole(text: Any) -> Any:
    """Refuse text settings of a file that leave one out: defaults are for callers, as in every record."""
    needed = [name for name in TextSettings.model_fields if name not in _OF_ENCODERS]
    absent = [name for name in needed if name not in text] if isinstance(text, Mapping) else []
    if absent:
        raise ValueError(f"{absent[0]} is missing")
    return text


WrittenText = Annotated[TextSettings, BeforeValidator(_whole)]
"""The text settings in a file, where every one is written."""


def check_cls(pooling: str, *, causal: bool) -> None:
    """Refuse, with a ``ConfigError``, to pool by the first token of a causal model."""
    if pooling == CLS and causal:
        raise ConfigError(f"{CLS} pools the first token, which sees no other one in a causal model; give another pooling")


class TextOptions(Settings):
    """The text settings as options of a verb; what is not given stays as the plan or the model has it."""

    pooling: Pooling | None = None
    """From token states to one vector: weightedmean, mean, lasttoken, max, mean_sqrt_len_tokens or, for bidirectional models, cls
    (the first token). TEI, vLLM and llama.cpp serve mean, lasttoken and cls alone. weightedmean-paper leaves BOS out and restarts
    the weights after a prompt, as L3Prune's code does: for profiles only, as no runtime pools so. Unset: as the plan has it, or an
    encoder given as MODEL, else weightedmean for causal models and mean for bidirectional ones."""
    append_eos: AppendEos | None = None
    """End every text with the model's EOS token, however it is cut; auto does so for lasttoken, which then pools it, unless
    the tokeniser ends texts by itself. Unset: as the plan has it, else auto."""
    instruction: Instruction | None = None
    """Before each query: none, e5 (the E5 set's, by data set), effir (EffiR's), the words themselves, or saved (the prompts
    of an encoder given as MODEL). Unset: as the plan has it, or that encoder, else none."""
    symmetric: Symmetric | None = None
    """Instruction on documents of symmetric data sets too (both), or on queries only, as the paper's code runs; unset:
    both for e5."""
    wrapper: Wrapper | None = None
    """Around each text: nothing, or the user turn of the model's chat template. Unset: as the plan has it, else none."""
    separator: str | None = None
    """Between instruction and text (L3Prune's code has "; "). Unset: as the plan has it, else a line break."""
    max_length: int | None = Field(None, ge=8, le=2**24)
    """Longest text in tokens; longer ones lose their end and are counted. Unset: as the plan or the encoder has it, else 512."""
    normalize: bool | None = None
    """End with L2 normalisation, so that dot product and cosine agree. Unset: as the plan or the encoder has it, else on."""


@dataclass(frozen=True, kw_only=True)
class PromptTemplate:
    """What is put around a text. The default adds nothing.

    A text is rendered as ``prefix + instruction + separator + text + suffix`` (instruction and separator only when there
    is an instruction). Everything before the text is attended to but not pooled; the suffix is pooled, as in L3Prune.

    Attributes:
        wrapper: Where prefix and suffix come from: ``"none"``, or ``"chat"`` (the user turn of the model's chat template).
        prefix: Literal text before the instruction.
        suffix: Literal text after the text.
        separator: Between instruction and text. L3Prune's code has ``"; "``; a line break is the default here since its
            token never merges with the first of the text, so that sentence-transformers, which counts the tokens of
            the prompt alone, leaves out of the pooling exactly the prompt.
    """

    wrapper: str = "none"
    prefix: str = ""
    suffix: str = ""
    separator: str = "\n"

    def before(self, instruction: str = "", separator: str | None = None) -> str:
        """Return everything that stands before the text; ``separator`` is that of an instruction that brings its own."""
        if not instruction:
            return self.prefix
        return self.prefix + instruction + (self.separator if separator is None else separator)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read back what ``asdict`` wrote; anything else is a ``DataError``."""
        if not isinstance(value, Mapping) or not set(value) <= {one.name for one in fields(cls)}:
            raise DataError(f"broken text format {value!r}; make the folder again with prune2vec prune")
        return cls(**value)
