"""Settings of mining hard negatives with an encoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from prune2vec.settings import Seed, Settings


class MiningSettings(Settings):
    """Which of the documents that an encoder ranks high for a query become its hard negatives."""

    negatives: int = Field(default=7, ge=1, le=10**3)
    """Hard negatives for each row (EffiR trains with 7); a row for which fewer are left keeps those."""
    range_min: int = Field(default=0, ge=0, le=10**9)
    """Pass over so many of the best documents left by the filters: the best may be answers that nobody marked."""
    range_max: int | None = Field(default=None, ge=1, le=10**9)
    """Look at the best so many documents only; None is range_min and ten times the negatives, or, without any filter, once."""
    relative_margin: float | None = Field(default=0.05, ge=-1, lt=1)
    """Leave out documents above this share below the positive's similarity, since they may be answers; null for no such filter."""
    margin: float | None = Field(default=None, ge=0, le=2)
    """Leave out documents whose similarity is less than this below the positive's."""
    max_score: float | None = Field(default=None, ge=-1, le=1)
    """Leave out documents more similar to the query than this."""
    min_score: float | None = Field(default=None, ge=-1, le=1)
    """Leave out documents less similar to the query than this."""
    sampling: Literal["top", "random"] = "top"
    """Take the best of the documents in the range, or draw among them."""
    score: bool = False
    """Write the encoder's cosines as teacher scores (pos_scores, neg_scores), to train with distil data; they span little, so
    train with teacher_temperature 0.02 or so."""
    seed: Seed = 42
    """Seed of the draw."""
    batch_size: int = Field(default=32, ge=1, le=10**6)
    """Texts per forward pass."""
    max_length: int | None = Field(default=None, ge=1, le=2**24)
    """Longest text in tokens; None keeps the encoder's own limit."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; auto is bf16 where the hardware multiplies it fast, else fp32."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, cuda:1, mps."""

    @model_validator(mode="after")
    def _fits(self) -> MiningSettings:
        if self.range_max is not None and self.range_max < self.range_min + self.negatives:
            needed = f"range_min {self.range_min} and {self.negatives} negatives need {self.range_min + self.negatives}"
            raise ValueError(f"range_max {self.range_max} is too small: {needed}")
        return self
