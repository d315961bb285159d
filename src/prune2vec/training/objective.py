"""What is minimised: sentence-transformers' losses, put together as the settings say.

An encoder learns the vectors of a teacher of another dimension through a linear projection, which is kept beside it in training
and, where it is asked for, after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    DistillKLDivLoss,
    EmbedDistillLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import all_gather, all_gather_with_grad, get_world_size, pairwise_cos_sim
from torch import Tensor, distributed, nn
from torch.nn.functional import kl_div, mse_loss, normalize
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prune2vec.errors import ConfigError
from prune2vec.models.heads import NORMALIZE, Dense, Normalize
from prune2vec.resume import WorkFolder
from prune2vec.training.adapters import heads_of
from prune2vec.training.train_settings import TrainSettings

Features = dict[str, Any]
_PROJECTION = "projection.safetensors"


def build_loss(encoder: SentenceTransformer, settings: TrainSettings, teacher: NDArray[np.float32] | None = None) -> nn.Module:
    """Return the loss that the settings describe (L3Prune section 3, with options).

    Where several processes train together, each gets a share of every batch, and what compares texts compares them with all
    texts of the batch: the mean of the processes' losses, and of their gradients, is that of one process with the whole batch.

    Args:
        encoder: The encoder in training.
        settings: How.
        teacher: A teacher's vectors, (row, dim) float32; the labels of a batch are numbers of its rows, (row, column).

    Raises:
        ConfigError: A Matryoshka dimension exceeds the encoder's.
    """
    dimension = full_width(encoder)
    if settings.distils:
        return DistilledLoss(encoder, settings, teacher)
    loss: nn.Module
    shared = get_world_size() > 1
    if settings.cached:
        loss = CachedMultipleNegativesRankingLoss(
            encoder,
            scale=settings.scale,
            gather_across_devices=shared,
            mini_batch_size=settings.mini_batch_size,
            mini_batch_num_tokens=settings.mini_batch_tokens,
        )
    else:
        loss = MultipleNegativesRankingLoss(encoder, scale=settings.scale, gather_across_devices=shared)
    if settings.matryoshka_dims:
        too_large = [dim for dim in settings.matryoshka_dims if dim > dimension]
        if too_large:
            raise ConfigError(f"matryoshka_dims: {too_large[0]} is more than the encoder's {dimension} dimensions")
        dims = sorted({dimension, *settings.matryoshka_dims}, reverse=True)
        loss = MatryoshkaLoss(encoder, loss, matryoshka_dims=dims)
    return loss


def full_width(encoder: SentenceTransformer) -> int:
    """Return the dimensions of what a forward pass gives, which ``truncate_dim`` does not cut."""
    with encoder.truncate_embeddings(None):
        return int(encoder.get_embedding_dimension() or 0)


class DistilledLoss(nn.Module):
    """The distance to a teacher, and for triplets the contrastive loss beside it, over one pass of the student."""

    def __init__(
        self, encoder: SentenceTransformer, settings: TrainSettings, teacher: NDArray[np.float32] | None = None
    ) -> None:
        super().__init__()
        self.model = encoder
        # No buffer: it stays in main memory, and out of every checkpoint.
        self._teacher = torch.from_numpy(teacher) if teacher is not None else None
        self._weight = settings.distil_weight
        self._contrastive = MultipleNegativesRankingLoss(
            encoder, scale=settings.scale, gather_across_devices=get_world_size() > 1
        )
        self.distance = TeacherDistance(encoder, settings, width=None if teacher is None else teacher.shape[1])

    def forward(self, sentence_features: Iterable[Features], labels: Tensor) -> dict[str, Tensor]:
        """Return both parts by name; the trainer adds them up and logs each. Of plain texts there is the distance alone."""
        columns = list(sentence_features)
        ours = embed_columns(self.model, columns)
        theirs: list[Tensor] = []
        if self._teacher is not None:
            theirs = [self._teacher[numbers].to(ours[0].device) for numbers in labels.cpu().unbind(dim=1)]
        parts = {"distillation": self._weight * self.distance(ours, theirs, labels)}
        if len(columns) > 1:
            parts = {"contrastive": self._contrastive.compute_loss_from_embeddings(ours, labels), **parts}
        return parts


class TeacherDistance(nn.Module):
    """How far a student's vectors are from a teacher's, of ``width`` dimensions; None for a teacher of scores alone.

    What is learnt of the teacher (sentence-transformers' losses, but for the similarities):

    - ``vectors``: of all texts, by cosine or by squared Euclidean distance (EmbedDistill, arXiv 2301.12005; LEAF, arXiv
      2509.12539), the student's through ``projection`` where the teacher has another dimension or it is kept;
    - ``similarities``: ``similarity_distance`` over all texts of the batch;
    - ``scores``: its scaled cosines of a row's documents as a distribution (Kullback-Leibler divergence, mean over the rows);
      with ``data`` the labels themselves are the scores, (row, document).
    """

    def __init__(self, encoder: SentenceTransformer, settings: TrainSettings, *, width: int | None) -> None:
        super().__init__()

        def scaled_cosine(a: Tensor, b: Tensor) -> Tensor:
            return settings.scale * pairwise_cos_sim(a.float(), b.float())

        self._settings = settings
        self._similarity = scaled_cosine
        # The student's own temperature stays at 1: the loss is multiplied by its square, and scale is in the cosines already.
        self._scores = DistillKLDivLoss(encoder, similarity_fct=scaled_cosine, teacher_temperature=settings.teacher_temperature)
        self.vectors: EmbedDistillLoss | None = None
        if width is not None and settings.distil == "vectors":
            # The projection's start must not depend on what was drawn before.
            torch.manual_seed(settings.seed)
            # What is learnt are whole vectors, whatever the encoder cuts off at the end.
            with encoder.truncate_embeddings(None):
                self.vectors = EmbedDistillLoss(
                    encoder,
                    distance_metric="cosine" if settings.distance == "cosine" else "mse",
                    projection_dim=width if settings.keep_projection or width != full_width(encoder) else None,
                )
            if self.vectors.projection is not None and get_world_size() > 1:

                def average(parameter: Tensor) -> None:
                    assert parameter.grad is not None
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= get_world_size()

                # It is no part of the encoder, whose gradients alone the trainer averages over the processes.
                for parameter in self.vectors.projection.parameters():
                    parameter.register_post_accumulate_grad_hook(average)

    def forward(self, ours: list[Tensor], theirs: list[Tensor], labels: Tensor) -> Tensor:
        """Return the distance of vectors by column, (row, dim) each; ``labels`` are the scores where ``theirs`` is empty."""
        if self.vectors is not None:
            found = self.vectors.compute_loss_from_embeddings(ours, theirs)
            # Theirs is a mean over the dimensions.
            return found if self._settings.distance == "cosine" else found * theirs[0].shape[1]
        if self._settings.distil == "similarities":
            scale = self._settings.distil_scale if self._settings.distance == "kl" else None
            if get_world_size() > 1:
                ours, theirs = list(map(all_gather_with_grad, ours)), list(map(all_gather, theirs))
            return similarity_distance(torch.cat(ours), torch.cat(theirs), scale=scale)
        if theirs:
            labels = torch.stack([self._similarity(theirs[0], document) for document in theirs[1:]], dim=1)
        return self._scores.compute_loss_from_embeddings(ours, labels.float())


def similarity_distance(ours: Tensor, theirs: Tensor, *, scale: float | None) -> Tensor:
    """Return how much the cosines between texts differ: (text, dim) of the student and of the teacher, whatever their dimensions.

    With a ``scale`` the divergence KL(teacher || student) of each text's distributions over the others, softmax of the scaled
    cosines, mean over the texts; else the mean squared difference of the cosines. A text's cosine with itself does not count.
    """
    cosines = [vectors @ vectors.T for vectors in (normalize(ours.float(), dim=1), normalize(theirs.float(), dim=1))]
    count = len(ours)
    others = ~torch.eye(count, dtype=torch.bool, device=ours.device)
    student, teacher = (found[others].view(count, count - 1) for found in cosines)
    if scale is None:
        return mse_loss(student, teacher)
    student, teacher = ((scale * found).log_softmax(dim=1) for found in (student, teacher))
    return kl_div(student, teacher, reduction="batchmean", log_target=True)


@contextmanager
def pooled_in_fp32(encoder: SentenceTransformer) -> Iterator[None]:
    """Widen token states to fp32 before they are pooled, so that pooling, heads, normalising and loss never round to bf16."""

    def widen(module: nn.Module, args: object, output: Any) -> Any:
        output["token_embeddings"] = output["token_embeddings"].float()
        return output

    def exact(forward: Any, *args: Any, **kwargs: Any) -> Any:
        # Full training in bf16 is autocast, which would make bf16 products of the heads too.
        with torch.autocast(encoder.device.type, enabled=False):
            return forward(*args, **kwargs)

    handle = encoder[0].register_forward_hook(widen)
    dtypes = [(head, next(head.parameters()).dtype) for head in heads_of(encoder) if any(True for _ in head.parameters())]
    try:
        for head, _ in dtypes:
            head.float()
            head.forward = partial(exact, head.forward)
        yield
    finally:
        handle.remove()
        for head, dtype in dtypes:
            head.to(dtype)
            head.__dict__.pop("forward", None)


class ProjectionSaver(TrainerCallback):
    """Keeps a loss's projection in the checkpoints, where the trainer puts the encoder's weights alone; and restores it."""

    def __init__(self, loss: EmbedDistillLoss, work: WorkFolder, resumed: Path | None) -> None:
        self._loss = loss
        self._work = work
        self._resumed = resumed

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take over from a checkpoint."""
        if self._resumed is not None:
            self._loss.load_projection(self._resumed / _PROJECTION)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write it into the checkpoint that was just written, which is not marked as whole yet."""
        if args.process_index == 0:
            self._loss.save_projection(self._work.checkpoint(state.global_step) / _PROJECTION)


def append_projection(encoder: SentenceTransformer, checkpoint: Path) -> list[nn.Module]:
    """Put a checkpoint's projection at the end of an encoder, and return the heads that came with it, in order.

    The loss compared the teacher's vectors with W x + b of the encoder's own vectors x: a normalised encoder gets a Dense head behind its
    normalisation, and another normalisation behind that. Without a projection nothing happens.
    """
    if not (checkpoint / _PROJECTION).exists():
        return []
    state = load_file(checkpoint / _PROJECTION)
    width, own = state["weight"].shape
    head = Dense(own, width, bias=True, activation_function=nn.Identity())
    head.linear.load_state_dict(state)
    before = [module for module in heads_of(encoder)[-1:] if type(module).__name__ == NORMALIZE]
    encoder.append(head.to(encoder.device, torch.float32).eval())
    if before:
        encoder.append(Normalize())
    return [*before, head]
