"""The model's end-of-text token behind every text: what last-token pooling pools."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from transformers import PreTrainedTokenizerBase

from prune2vec.errors import ConfigError
from prune2vec.records.text_format import TextFormat

AppendEos = Literal["auto", "on", "off"]


def end_with_eos(layout: TextFormat, tokenizer: PreTrainedTokenizerBase, *, append_eos: AppendEos, pooling: str) -> TextFormat:
    """Return the text format with the tokeniser's EOS token as suffix, where it is wanted and not there yet.

    Args:
        layout: What stands around a text so far.
        tokenizer: The model's.
        append_eos: ``"auto"`` is on for the pooling ``"lasttoken"``, unless the wrapper ends a text already or the tokeniser
            has no EOS token; off for the other poolings.
        pooling: Name of the pooling.

    Raises:
        ConfigError: ``"on"``, but there is no EOS token, or the wrapper ends a text with something else.
    """
    if append_eos == "off" or (append_eos == "auto" and (pooling != "lasttoken" or layout.suffix)):
        return layout
    eos = tokenizer.eos_token
    if eos is None:
        if append_eos == "auto":
            return layout
        raise ConfigError("append_eos is on, but the tokeniser has no EOS token; set append_eos to off")
    if layout.suffix not in ("", eos):
        raise ConfigError(
            f"append_eos is on, but the wrapper ends texts with {layout.suffix!r}; set one of the two to off or none"
        )
    return layout if _ends_by_itself(tokenizer) else replace(layout, suffix=str(eos))


def _ends_by_itself(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids: list[int] = tokenizer("a")["input_ids"]
    return bool(ids[-1] == tokenizer.eos_token_id)
