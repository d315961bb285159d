"""Settings of a profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from prune2vec.errors import ConfigError
from prune2vec.models.text_settings import TextOptions
from prune2vec.settings import Amount, Seed

LAYER_LOSS, PLAIN, ALL = "layer-loss", "redundancy-plain", "all"


class ProfileSettings(TextOptions):
    """How a model is measured; the defaults of the layer-loss curve are the L3Prune paper's (20 batches of 64, scale 50)."""

    scorers: tuple[str, ...] = (LAYER_LOSS,)
    """What to measure beside the layer-loss: redundancy, redundancy-plain, redundancy-iterative, magnitude, angular-distance,
    ablation, linear-fit (a pass for every block and round, each), or all."""

    groups: int = Field(20, ge=1, le=10**6)
    """Groups of tuples; the loss is the mean over them."""
    group_size: int = Field(64, ge=2, le=10**6)
    """Tuples a group; each query is scored against all positives and hard negatives of its group."""
    sampling: Literal["sampled", "file", "dataset"] = "sampled"
    """How groups are drawn: over all texts, in file order, or one data set a group."""
    seed: Seed = 42
    """Seed of the draw."""
    scale: float = Field(50.0, gt=0, le=10**6)
    """Factor on the cosine similarities (1 / temperature)."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the forward pass; auto is bf16 where the hardware multiplies it fast, else fp32. The loss is always float32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    token_budget: int | None = Field(None, ge=64, le=2**31)
    """Tokens of one forward pass, padding included; unset: on a CPU 4,096 without padding and 1,024 with, elsewhere 16,384.
    Changes speed and memory, and the result within rounding."""
    stream: Literal["auto", "on", "off"] = "auto"
    """Hold one block in memory at a time instead of the model; auto does so where the model does not fit."""
    memory: Amount | None = None
    """Memory that the profile may use, 500MB or 4GB (on the GPU, where that computes); unset: what is free. States
    that do not fit go to a file in TMPDIR, which should be on a disk."""
    max_depth: int | None = Field(None, ge=1, le=10**4)
    """Stop after so many layers: the curve ends there, and when streamed nothing beyond is read; layer-loss only."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
    plain: Path | None = None
    """Plain text for redundancy-plain: a .txt, .md or .jsonl file (column text), or a folder of them."""
    windows: int = Field(256, ge=1, le=10**6)
    """Windows of plain text (256 in LLM-Drop)."""
    window_length: int = Field(2048, ge=8, le=2**24)
    """Tokens in each of them (2048 in LLM-Drop)."""
    rounds: int | None = Field(None, ge=1, le=10**4)
    """What redundancy-iterative (of each kind of sub-layer), ablation and linear-fit (of blocks) drop one by one; unset: half the
    layers."""

    def rounds_of(self, layers: int) -> int:
        """Return the rounds for a model of so many layers, of which at least one stays; too many are a ``ConfigError``."""
        rounds = layers // 2 if self.rounds is None else self.rounds
        if rounds >= layers > 1:
            raise ConfigError(f"rounds is {rounds}, but one of {layers} layers must stay; give at most {layers - 1}")
        return min(rounds, layers - 1)

    @field_validator("scorers", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_its_scorers(self) -> Self:
        others = [name for name in self.scorers if name not in (LAYER_LOSS, ALL)]
        if self.max_depth is not None and (others or ALL in self.scorers):
            raise ValueError(
                f"max_depth is {self.max_depth}, but {', '.join(others) or ALL} must see all layers; set scorers to {LAYER_LOSS}"
            )
        if PLAIN in self.scorers and self.plain is None:
            raise ValueError(f"{PLAIN} reads plain text, and none is given; set plain to a file or folder of it")
        return self
