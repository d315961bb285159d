"""Settings of a cut: what the plan has not decided."""

from __future__ import annotations

from typing import Literal

from prune2vec.models.text_settings import TextOptions

Attention = Literal["kept", "bidirectional"]


class PruneSettings(TextOptions):
    """What the written encoder does with a text, where that is to differ from the plan; saved with it."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Dtype of the written weights; auto keeps the model's."""
    attention: Attention = "kept"
    """Which tokens a token sees: as in the model (kept), or those after it too (bidirectional), where the model's class can; such
    an encoder has to be trained before it is of use."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; unset: the commit that the plan was made for."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
