"""Settings of a cut: how the encoder that is written turns a text into a vector."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prune2vec.records.settings import Settings


class PruneSettings(Settings):
    """What the written encoder does with a text; saved with it."""

    pooling: Literal["weightedmean", "mean", "lasttoken"] = "weightedmean"
    """From token states to one vector. TEI, vLLM and llama.cpp serve mean and lasttoken; weightedmean needs sentence-transformers."""
    append_eos: Literal["auto", "on", "off"] = "auto"
    """End every text with the model's EOS token, however it is cut; auto does so for lasttoken, which then pools that token."""
    max_length: int = Field(512, ge=8)
    """Longest text in tokens; longer ones lose their end."""
    instruction: str = ""
    """Before each query (prompt "query"): the words themselves, or effir (EffiR's); documents get none."""
    wrapper: Literal["none", "chat"] = "none"
    """Around each text: nothing, or the user turn of the model's chat template."""
    separator: str = "\n"
    """Between instruction and text (L3Prune's code has "; ")."""
    normalize: bool = True
    """End with L2 normalisation, so that dot product and cosine agree."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the written weights; auto keeps the model's."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
