"""Settings of the width stage."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from prune2vec.models.text_settings import TextOptions
from prune2vec.planning.shares import parse_count, parse_share
from prune2vec.settings import Amount, Seed
from prune2vec.training.train_settings import TrainSettings


def read_least(value: Any) -> Any:
    """Read a count from 1 on, or a share (``10%``, ``0.1``), as a fraction.

    Raises:
        ValueError: It is something else.
    """
    if isinstance(value, Fraction) and 1 <= value <= 10**9:
        return value
    least = Fraction(parse_count(value))
    if least == 0:
        raise ValueError("every MLP keeps at least 1 neuron; give 1 or more, or a share such as 10%")
    return least


Share = Annotated[Fraction, BeforeValidator(parse_share), PlainSerializer(str, return_type=str)]
Least = Annotated[Fraction, BeforeValidator(read_least), PlainSerializer(str, return_type=str)]


class SlimSettings(TextOptions):
    """How neurons are scored and cut. Gate, sharpness, penalty, steps and the global cut are EffiR's (arXiv 2512.20612,
    section 3); it does not state learning rate, schedule, batch and what else is set here: those defaults are ours."""

    importance: str = "gates"
    """What a neuron is worth: gates (learnt, EffiR's), activation, magnitude, wanda or taylor."""
    width_cut: Share | None = None
    """Share of the neurons of all remaining MLPs together to cut, such as 30%; in place of the plan's own."""
    max_params: Amount | None = None
    """Cut as many neurons as the encoder needs to have at most so many parameters (90M, 1.5B), in place of a share."""
    floor: Least = Fraction(1)
    """Least that every MLP keeps: a number of neurons, or a share of them (10%); what it protects is cut elsewhere."""
    multiple: int = Field(default=1, ge=1, le=2**20)
    """Round the width of each MLP up to a multiple of this (64 or 128 suit most hardware), so that a little less is cut."""
    uniform: bool = False
    """Give every MLP the same width, its own best neurons, so that stock model classes can load the result; the width is
    the one nearest to the share."""
    steps: int = Field(default=500, ge=1, le=10**7)
    """Steps in which gates are learnt."""
    learning_rate: float = Field(default=3e-3, gt=0, le=100)
    """Learning rate of the gates. A step moves a gate by at most about this much: within 500 steps a gate can close, but few
    do. Where more gates close than are cut, those that go are no longer told apart; then lower it."""
    schedule: Literal["linear", "constant", "cosine"] = "constant"
    """Learning rate after warm-up."""
    warmup_steps: int | None = Field(default=None, ge=0, le=10**7)
    """Steps in which the learning rate rises from zero; None is a tenth of the steps."""
    gate_penalty: float = Field(default=1e-8, ge=0, le=10**6)
    """Weight of the penalty on open gates (lambda)."""
    gate_sharpness: float = Field(default=5.0, gt=0, le=10**4)
    """The penalty of a gate z is sigmoid(sharpness * relu(z)) (beta)."""
    batches: int = Field(default=20, ge=1, le=10**6)
    """Batches of texts that activation, wanda and taylor look at."""
    batch_size: int = Field(default=64, ge=2, le=10**6)
    """Rows a step, or a batch; all from one dataset."""
    hard_negatives: int = Field(default=1, ge=0, le=10**3)
    """Hard negatives taken from each row; a row with fewer repeats them."""
    negative_sampling: Literal["first", "sampled"] = "first"
    """Which hard negatives of a row: its first ones, or drawn once with the seed."""
    scale: float = Field(default=50.0, gt=0, le=10**6)
    """Cosines are multiplied by this in the loss (1 / temperature)."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=10**12)
    """Gradients are scaled down to this norm."""
    seed: Seed = 42
    """Seed of the order of the data and of dropout."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass; auto does so if they would take more than 60 % of the free memory."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the multiplications; gates, loss and scores are always fp32."""
    device: str = "auto"
    """Where it is computed: auto, cpu, cuda, cuda:1, mps."""
    save_every: int = Field(default=100, ge=1, le=10**9)
    """Steps between checkpoints, from which the same command resumes after an interruption."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; default: the commit that the plan was made for."""
    trust_remote_code: bool = False
    """Run model code that comes with the checkpoint."""
    restart: bool = False
    """Discard an unfinished run with other settings at the same output."""

    @model_validator(mode="after")
    def _fits(self) -> SlimSettings:
        if self.width_cut is not None and self.max_params is not None:
            raise ValueError("width_cut and max_params both say how much is cut; give one of them")
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}; or leave it out")
        return self

    @property
    def warmup(self) -> int:
        """Warm-up steps, resolved."""
        return self.warmup_steps if self.warmup_steps is not None else self.steps // 10

    def for_training(self) -> TrainSettings:
        """Return the part of the settings that the trainer knows; adapters are put in by nobody here."""
        shared = set(TrainSettings.model_fields) & (set(SlimSettings.model_fields) - set(TextOptions.model_fields))
        given = {name: getattr(self, name) for name in shared}
        if self.max_length is not None:
            given["max_length"] = self.max_length
        return TrainSettings.build({**given, "warmup_steps": self.warmup, "distil": "none"}, where="slim")
