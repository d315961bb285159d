"""How a text becomes tokens and tokens one vector: one record, measured with, carried in plans, written by ``prune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field

from prune2vec.records.settings import Settings

PAPER_POOLING = "weightedmean-paper"
SAVED = "saved"

Pooling = Literal["weightedmean", "mean", "lasttoken", "weightedmean-paper"]
AppendEos = Literal["auto", "on", "off"]
Symmetric = Literal["both", "paper"]
Wrapper = Literal["none", "chat"]


class TextSettings(Settings):
    """The text settings of a profile, a plan and an encoder, every one decided.

    Attributes:
        pooling: From token states to one vector.
        append_eos: Whether texts end with the model's EOS token.
        instruction: ``none``, ``e5``, ``effir``, the words themselves, or ``saved``: ``prompts`` as they are.
        symmetric: Whether documents of symmetric data sets get the instruction; None is ``both`` for e5 alone.
        wrapper: What stands around a text.
        separator: What joins an instruction to a text.
        max_length: Longest text in tokens.
        normalize: Whether vectors end L2-normalised.
        include_prompt: Whether the tokens of a prompt are pooled.
        prompts: Prompts by name that an encoder given as the model brought along.
        default_prompt: Which of them applies when none is asked for.
    """

    pooling: Pooling = "weightedmean"
    append_eos: AppendEos = "auto"
    instruction: str = "none"
    symmetric: Symmetric | None = None
    wrapper: Wrapper = "none"
    separator: str = "\n"
    max_length: int = Field(512, ge=8)
    normalize: bool = True
    include_prompt: bool = False
    prompts: Mapping[str, str] = Field(default_factory=dict)
    default_prompt: str | None = None

    def overridden(self, options: TextOptions) -> tuple[Self, list[str]]:
        """Return the settings with what ``options`` set in its place, and in words what that changed.

        An instruction of one's own replaces an encoder's prompts.
        """
        given = {name: getattr(options, name) for name in TextOptions.model_fields}
        changed = {name: value for name, value in given.items() if value not in (None, getattr(self, name))}
        words = [f"{name} {value!r} instead of {getattr(self, name)!r}" for name, value in changed.items()]
        if changed.get("instruction", SAVED) != SAVED:
            changed |= {"prompts": {}, "default_prompt": None}
        return self.model_copy(update=changed), words

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return self.model_dump(mode="json")


class TextOptions(Settings):
    """The text settings as options of a verb; what is not given stays as the plan or the model has it."""

    pooling: Pooling | None = None
    """From token states to one vector: weightedmean, mean or lasttoken. TEI, vLLM and llama.cpp serve mean and lasttoken
    alone. weightedmean-paper leaves BOS out and restarts the weights after a prompt, as L3Prune's code does: for profiles
    only, as no runtime pools so. Unset: as the plan has it, or an encoder given as MODEL, else weightedmean."""
    append_eos: AppendEos | None = None
    """End every text with the model's EOS token, however it is cut; auto does so for lasttoken, which then pools it, unless
    the tokeniser ends texts by itself. Unset: as the plan has it, else auto."""
    instruction: str | None = None
    """Before each query: none, e5 (the E5 set's, by data set), effir (EffiR's), the words themselves, or saved (the prompts
    of an encoder given as MODEL). Unset: as the plan has it, or that encoder, else none."""
    symmetric: Symmetric | None = None
    """Instruction on documents of symmetric data sets too (both), or on queries only, as the paper's code runs; unset:
    both for e5."""
    wrapper: Wrapper | None = None
    """Around each text: nothing, or the user turn of the model's chat template. Unset: as the plan has it, else none."""
    separator: str | None = None
    """Between instruction and text (L3Prune's code has "; "). Unset: as the plan has it, else a line break."""
    max_length: int | None = Field(None, ge=8)
    """Longest text in tokens; longer ones lose their end and are counted. Unset: as the plan or the encoder has it, else 512."""
    normalize: bool | None = None
    """End with L2 normalisation, so that dot product and cosine agree. Unset: as the plan or the encoder has it, else on."""
