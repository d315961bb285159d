"""Settings of a training run, its presets, and the check of its tracker; the defaults are the L3Prune paper's recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, model_validator

from prune2vec.errors import ConfigError, reason_of
from prune2vec.models.text_settings import Instruction
from prune2vec.settings import Seed, Settings

# Stated by EffiR (arXiv 2512.20612): rank, alpha, learning rate, temperature 0.02, seven hard negatives, contrastive loss
# plus KL to a reranker's scores, the instruction. Not stated, and taken from the recipe that it follows (FlagEmbedding's
# decoder-only encoders): 128 queries a step, a linear schedule to zero after 100 warm-up steps, hard negatives drawn
# anew for each row, both losses with weight 1, teacher scores as they are.
_EFFIR: Mapping[str, Any] = {
    "lora_rank": 32,
    "lora_alpha": 64,
    "learning_rate": 1e-4,
    "schedule": "linear-to-zero",
    "batch_size": 128,
    "scale": 50.0,
    "hard_negatives": 7,
    "negative_sampling": "sampled",
    "instruction": "effir",
    "distil": "data",
    "distil_weight": 1.0,
    "teacher_temperature": 1.0,
}
_EFFIR_WARMUP_STEPS = 100

# What benchmarks/embedders.py measured on cut encoders that learn their own vectors (docs/embedders.md).
_DISTIL: Mapping[str, Any] = {"method": "full", "learning_rate": 1e-4, "schedule": "linear-to-zero"}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"l3prune": {}, "effir": _EFFIR, "distil": _DISTIL})
"""What each preset sets; everything else keeps the default of ``TrainSettings``, which is L3Prune's."""

# What each kind of distillation can be measured by, the usual first.
_DISTANCES = {"vectors": ("cosine", "squared"), "similarities": ("kl", "squared")}
TEACHER = ("teacher", "teacher_vectors")
LABELS_ALONE = ("data", "none")
"""Kinds of distillation without an encoder that teaches."""
WITHOUT_TEACHER: Mapping[str, Any] = MappingProxyType(
    {"teacher": None, "teacher_vectors": None, "keep_projection": False, "prompts": ()}
)
"""What learns from no encoder, and what is for one alone."""

Named = Annotated[
    str,
    Field(min_length=1),
    BeforeValidator(lambda value: os.path.expanduser(value) if isinstance(value, str) else value),
]
"""A path, or the name of something elsewhere."""

# These change how a run is watched or kept, or are recorded resolved: a checkpoint stays valid when they change.
_FREE = frozenset(
    {
        *("preset", "teacher", "teacher_vectors", "device", "dtype", "gradient_checkpointing"),
        *("dev", "dev_rows", "save_every", "report_to", "restart"),
    }
)
# Without depths they change nothing, and runs of earlier releases know none of them.
_OF_DEPTHS = frozenset({"depths", "depth_weights", "depths_per_step", "deepest_teaches"})


class TrainSettings(Settings):
    """How an encoder is trained; the defaults are those of L3Prune (arXiv 2410.14578)."""

    preset: Literal["l3prune", "effir", "distil"] = "l3prune"
    """Set of defaults. effir (arXiv 2512.20612): rank 32, alpha 64, rate 1e-4, 128 rows a step, 7 drawn hard negatives, the effir
    instruction, the rows' teacher scores learnt beside the contrastive loss; prune (and slim) the model for it with
    --pooling lasttoken --instruction effir. distil, for a cut that learns a teacher's vectors: all weights, rate 1e-4, falling to
    zero, a tenth of the steps as warm-up. What is set explicitly stays as it is set."""
    method: Literal["lora", "full"] = "lora"
    """Train low-rank adapters on a frozen model (merged afterwards), or all weights."""
    lora_rank: int = Field(default=16, ge=1, le=2**16)
    """Rank of the adapters."""
    lora_alpha: float = Field(default=32, gt=0, le=10**6)
    """Scale of the adapters: their output is multiplied by alpha / rank."""
    lora_dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before each adapter."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Which linear layers get adapters: all-linear, a regular expression, or a list of name endings (q_proj, v_proj)."""
    train_top: int | None = Field(default=None, ge=1, le=10**4)
    """Train the last so many of the kept layers alone. Those below keep their weights and need neither gradients nor the
    memory for them. None trains all."""
    base: Literal["4bit", "8bit"] | None = None
    """Hold the frozen model in 4 or 8 bits while its adapters are trained (QLoRA), where it does not fit otherwise. They are merged into
    the weights as they were, and how far the merged vectors are from those of the training is told. None holds it in dtype."""
    learning_rate: float = Field(default=2e-4, gt=0, le=100)
    """Learning rate after warm-up."""
    schedule: Literal["linear", "linear-to-zero", "constant", "cosine"] = "linear"
    """After warm-up: linear falls towards zero at the end of three epochs, as the paper's (whose 1,000 steps end long before
    that, at 99 % of the rate), or at the last step if that is later; linear-to-zero and cosine reach zero at the last step."""
    warmup_steps: int | None = Field(default=None, ge=0, le=10**7)
    """Steps in which the learning rate rises from zero; None is three tenths of the steps, the paper's 300 of 1,000
    (with the preset effir at most 100, with distil a tenth)."""
    steps: int = Field(default=1000, ge=1, le=10**7)
    """Optimiser steps."""
    batch_size: int = Field(default=64, ge=2, le=10**6)
    """Rows a step, of all processes together; all from one dataset, and no text twice."""
    max_length: int = Field(default=512, ge=8, le=2**24)
    """Longest text in tokens, instruction and special tokens included; what is longer is cut and counted."""
    scale: float = Field(default=50.0, gt=0, le=10**6)
    """Cosines are multiplied by this in the loss (1 / temperature)."""
    hard_negatives: int = Field(default=1, ge=0, le=10**3)
    """Hard negatives taken from each row; a row with fewer repeats them."""
    negative_sampling: Literal["first", "sampled"] = "first"
    """Which hard negatives of a row: its first ones (the hardest, as a rule), or drawn once for the run with the seed."""
    weight_decay: float = Field(default=0.0, ge=0, le=10**3)
    """AdamW's weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=10**12)
    """Gradients of the encoder are scaled down to this norm; of a projection into a teacher's space they are left as they are."""
    seed: Seed = 42
    """Seed of the adapters' start, the order of the data and dropout."""
    instruction: Instruction = "saved"
    """Before a query: saved (what the checkpoint puts there), none, e5 (the E5 set's, by data set), effir (EffiR's), or the
    words themselves."""
    symmetric: Literal["both", "paper"] | None = None
    """Whether documents of symmetric data sets get the instruction too (both) or never (paper); None is both for e5 alone."""
    cached: bool = False
    """GradCache: batches of any size in the memory of mini_batch_size rows, for about twice the time."""
    mini_batch_size: int = Field(default=32, ge=1, le=10**6)
    """Rows in memory at a time when cached."""
    mini_batch_tokens: int | None = Field(default=None, ge=1, le=2**31)
    """Tokens in memory at a time when cached, instead of rows."""
    matryoshka_dims: tuple[Annotated[int, Field(ge=1, le=10**6)], ...] = ()
    """Train these leading dimensions as embeddings of their own too; the full size is always among them."""
    depths: tuple[Annotated[int, Field(ge=1, le=10**4)], ...] = ()
    """Train the encoder cut to each of these numbers of leading layers too, such as 6,12,18, in the same run (elastic): the loss is
    the sum over all depths of one forward pass, each read out as that cut reads out. The whole encoder is always among them.
    prune ENCODER 6 then gives that size without more training."""
    depth_weights: tuple[Annotated[float, Field(gt=0, le=10**6)], ...] = ()
    """Weight of the loss at each of the depths, the whole encoder's last; empty is 1 for each."""
    depths_per_step: int | None = Field(default=None, ge=2, le=10**4)
    """So many of the depths, drawn anew for each step, the whole encoder always among them; None takes all in each step."""
    deepest_teaches: bool = False
    """The shallower depths learn the whole encoder's vectors of the same pass too, as distil, distil_distance and distil_weight
    say, beside what all depths learn."""
    teacher: Named | None = None
    """Encoder (folder or hub id) whose vectors are learnt: from plain texts, or beside the contrastive loss from triplets. It
    encodes each distinct text once, before the training, and is not in memory during it. Any size, any tokeniser."""
    teacher_vectors: Named | None = None
    """With a teacher: the folder in which its vectors are kept (default: OUTPUT.teacher), taken from there where they are
    complete. Without: vectors that exist, of whatever teacher: what encode wrote, or Parquet or JSON lines with a
    vector beside the text or its id."""
    distil: Literal["vectors", "similarities", "scores", "data", "none"] = "vectors"
    """What is learnt of a teacher: its vectors, in its own space (where it has another dimension through a linear projection, dropped
    at the end unless keep_projection); similarities: how near the texts of a batch are to each other; scores: how it divides its
    belief among the documents of a row of triplets. data takes the scores that the rows bring along (pos_scores, neg_scores)
    instead."""
    distil_distance: Literal["auto", "cosine", "squared", "kl"] = "auto"
    """Between teacher and student. For vectors: cosine (auto) or squared (Euclidean). For similarities: kl (auto), the
    divergence of the two distributions over the batch's other texts, or squared, of the cosines. For scores: kl."""
    distil_scale: float = Field(default=20.0, gt=0, le=10**6)
    """With similarities by kl, the cosines of both are multiplied by this before their softmax."""
    keep_projection: bool = False
    """Keep the projection into the teacher's space as a Dense head of the encoder (L2 normalisation, linear layer), instead of
    dropping it: its vectors then have the teacher's dimension and are comparable with the teacher's. A teacher of the same dimension is
    learnt through one then, too."""
    distil_weight: float = Field(default=1.0, gt=0, le=10**6)
    """Weight of the distillation beside the contrastive loss, which has 1."""
    prompts: tuple[str, ...] = ()
    """Names of the prompts under which plain texts are learnt, such as query,document: each text under each of them, by
    teacher and student alike. Empty is document."""
    teacher_temperature: float = Field(default=1.0, gt=0, le=10**6)
    """A teacher's scores are divided by this before their softmax (an encoder's cosines are multiplied by scale as well)."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Compute each distinct text of a batch once and without padding: the same loss and gradients, sooner. Equal texts of a
    batch share one draw of the dropout, and so do, on a CPU, the layers that project one input (queries, keys and values).
    auto sorts by length and pads where a model cannot take packed texts; on refuses such a model; off leaves all to
    sentence-transformers."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations in the backward pass: one more forward pass a step, a fraction of the memory. auto measures the
    activations of the run's largest batch and does so only if they would take more than 60 % of the free memory."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the multiplications; auto is bf16 where the hardware is fast at it. What is trained is always fp32,
    and so is the loss, from the pooling on."""
    device: str = "auto"
    """Where it is trained: auto, cpu, cuda, cuda:1, mps."""
    dev: Path | None = None
    """Held-out triplets; nDCG@10 among their own documents is taken at each checkpoint and at the end."""
    dev_rows: int = Field(default=500, ge=1, le=10**9)
    """Rows of each held-out dataset that are used, from the top."""
    save_every: int = Field(default=200, ge=1, le=10**9)
    """Steps between checkpoints, from which the same command resumes after an interruption."""
    report_to: str = "none"
    """A tracker that transformers knows (wandb, tensorboard, ...), or none."""
    restart: bool = False
    """Discard an unfinished or finished run with other settings at the same output."""

    @model_validator(mode="wrap")
    @classmethod
    def _with_preset(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict):
            return handler(values)
        named = {str(key).replace("-", "_"): value for key, value in values.items()}
        # A key given both ways is refused by the fields.
        values = named if len(named) == len(values) else values
        name = values.get("preset")
        preset = PRESETS.get(name, {}) if isinstance(name, str) else {}
        # A teacher takes the place of the preset's scores.
        taken = {*values, *(("distil",) if any(values.get(name) is not None for name in TEACHER) else ())}
        added = {key: value for key, value in preset.items() if key not in taken}
        made = handler({**added, **values})
        # A preset's values are defaults: another preset, set on top of these settings, replaces them.
        made.model_fields_set.difference_update(added)
        return made

    @property
    def _teaching(self) -> str | None:
        """The setting that names a teacher, if one does."""
        return next((name for name in TEACHER if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.warmup_steps is not None and self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} must be below steps {self.steps}; or leave it out")
        if self.base is not None and self.method != "lora":
            raise ValueError(
                f"base {self.base!r} is frozen, and method full trains all weights; set method to lora, or leave base out"
            )
        return self

    @model_validator(mode="after")
    def _distillation_fits(self) -> Self:
        given = self._teaching
        if given is not None and self.distil in LABELS_ALONE:
            raise ValueError(f"distil {self.distil!r} and {given} exclude each other; set distil to vectors, or drop {given}")
        if self.distils and (self.cached or self.matryoshka_dims):
            what = given or "distil 'data'"
            raise ValueError(f"{what} works with neither cached nor matryoshka_dims; choose one")
        if (self.distils or self.deepest_teaches) and self.distil in ("scores", "data") and self.hard_negatives == 0:
            remedy = "vectors" if self.distil == "scores" else "none"
            raise ValueError(
                f"distil {self.distil!r} compares a row's documents; set hard_negatives to 1, or distil to {remedy}"
            )
        if self.keep_projection and (given is None or self.distil != "vectors"):
            raise ValueError("keep_projection needs a teacher and distil vectors: only these are learnt through a projection")
        known = _DISTANCES.get(self.distil, ("kl",))
        if self.distil_distance not in ("auto", *known):
            raise ValueError(
                f"distil_distance {self.distil_distance!r} does not fit distil {self.distil!r}; give {' or '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _depths_fit(self) -> Self:
        if list(self.depths) != sorted(set(self.depths)):
            raise ValueError(f"depths must ascend without repeats, got {','.join(map(str, self.depths))}")
        other = "cached" if self.cached else "train_top" if self.train_top is not None else None
        if self.depths and other:
            raise ValueError(f"depths works with neither cached nor train_top; drop {other}")
        if not self.deepest_teaches:
            return self
        if self._teaching is not None:
            raise ValueError(
                f"deepest_teaches and {self._teaching} exclude each other: with a teacher all depths learn from it"
            )
        if self.distil in LABELS_ALONE:
            raise ValueError(f"deepest_teaches needs distil vectors, similarities or scores, got {self.distil!r}")
        return self

    def check_depths(self) -> None:
        """Refuse, with a ConfigError, settings of a training at several depths in one at a single depth.

        A recipe's variants may share them where only some of these have depths, so this is no check of the settings by themselves.
        """
        given = [name for name in ("depth_weights", "depths_per_step", "deepest_teaches") if getattr(self, name)]
        if given and not self.depths:
            raise ConfigError(f"{given[0]} is for training at several depths; give depths too, such as 6,12, or drop it")

    @property
    def distils(self) -> bool:
        """Whether a teacher is learnt from, be it an encoder or scores in the data."""
        return self.distil == "data" or self.learns_vectors

    @property
    def learns_vectors(self) -> bool:
        """Whether a teacher's vectors are learnt from."""
        return self.teacher is not None or self.teacher_vectors is not None

    @property
    def distance(self) -> str:
        """Distance to the teacher, resolved."""
        return _DISTANCES.get(self.distil, ("kl",))[0] if self.distil_distance == "auto" else self.distil_distance

    @property
    def warmup(self) -> int:
        """Warm-up steps, resolved."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        steps = round((0.1 if self.preset == "distil" else 0.3) * self.steps)
        return min(steps, _EFFIR_WARMUP_STEPS) if self.preset == "effir" else steps

    def identity(self) -> dict[str, object]:
        """Return the settings that decide what is computed; a checkpoint is only resumed when they are the same.

        The preset does not count, what came of it does.
        """
        free = (_FREE if self.depths else _FREE | _OF_DEPTHS) | (set() if self.base else {"base"})
        return {**self.model_dump(mode="json", exclude=set(free)), "warmup_steps": self.warmup}


def check_tracker(name: str) -> None:
    """Make the tracker's callback as the trainer will, and drop it, before any work begins.

    Raises:
        ConfigError: transformers knows no tracker of that name, or its package is missing or does not start.
    """
    if name in ("none", "all"):
        return
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks([name]):
            callback()
    except Exception as error:  # Whatever a tracker's package raises: the run would end with it.
        raise ConfigError(f"report_to {name!r} cannot be used: {reason_of(error)}") from error
