"""Settings of a profile."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prune2vec.records.settings import Settings


class ProfileSettings(Settings):
    """How the layer-loss curve is measured; the defaults are the L3Prune paper's (20 batches of 64, scale 50)."""

    groups: int = Field(20, ge=1)
    """Groups of tuples; the loss is the mean over them."""
    group_size: int = Field(64, ge=2)
    """Tuples a group; each query is scored against all positives and hard negatives of its group."""
    order: Literal["sampled", "file", "dataset"] = "sampled"
    """How groups are drawn: over all texts, in file order, or one data set a group."""
    seed: int = 42
    """Seed of the draw."""
    scale: float = Field(50.0, gt=0)
    """Factor on the cosine similarities (1 / temperature)."""
    pooling: str = "weightedmean"
    """From token states to one vector: weightedmean, mean or lasttoken."""
    instruction: str = "none"
    """Before each text: none, e5 (the table of the public E5 set) or a literal instruction for queries."""
    symmetric: Literal["both", "paper"] | None = None
    """Instruction on both sides of symmetric data sets, or on queries only as the paper's code runs; unset: both for e5."""
    wrapper: Literal["none", "chat"] = "none"
    """Around each text: nothing, or the user turn of the model's chat template."""
    separator: str = "\n"
    """Between instruction and text (L3Prune's code has "; ")."""
    max_length: int = Field(512, ge=8)
    """Longest text in tokens; longer ones lose their end and are counted."""
    dtype: str = "auto"
    """Number format of the forward pass: auto, float32, bfloat16 or float16; the loss is always float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    token_budget: int = Field(8192, ge=64)
    """Padded tokens in one forward pass; changes speed and memory, not the result."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
