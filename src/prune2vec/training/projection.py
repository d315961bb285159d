"""The linear projection through which an encoder learns the vectors of a teacher of another dimension: kept beside and after training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prune2vec.models.head_modules import Dense, Normalize
from prune2vec.models.heads import NORMALIZE
from prune2vec.resume import WorkFolder
from prune2vec.training.adapters import heads_of

_FILE = "projection.safetensors"


class ProjectionSaver(TrainerCallback):
    """Keeps a loss's projection in the checkpoints, where the trainer puts the encoder's weights alone; and restores it."""

    def __init__(self, loss: EmbedDistillLoss, work: WorkFolder, resumed: Path | None) -> None:
        self._loss = loss
        self._work = work
        self._resumed = resumed

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take over from a checkpoint."""
        if self._resumed is not None:
            self._loss.load_projection(self._resumed / _FILE)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it into the checkpoint that was just written, which is not marked as whole yet."""
        if args.process_index == 0:
            self._loss.save_projection(self._work.checkpoint(state.global_step) / _FILE)


def append_projection(encoder: SentenceTransformer, checkpoint: Path) -> list[nn.Module]:
    """Put a checkpoint's projection at the end of an encoder, and return the heads that came with it, in order.

    The loss compared the teacher's vectors with W x + b of the encoder's own vectors x: a normalised encoder gets a Dense head behind its
    normalisation, and another normalisation behind that. Without a projection (a teacher of the same dimension) nothing happens.
    """
    if not (checkpoint / _FILE).exists():
        return []
    state = load_file(checkpoint / _FILE)
    width, own = state["weight"].shape
    head = Dense(own, width, bias=True, activation_function=nn.Identity())
    head.linear.load_state_dict(state)
    before = [module for module in heads_of(encoder)[-1:] if type(module).__name__ == NORMALIZE]
    encoder.append(head.to(encoder.device, torch.float32).eval())
    if before:
        encoder.append(Normalize())
    return [*before, head]
