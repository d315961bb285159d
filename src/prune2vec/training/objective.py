"""What is minimised: sentence-transformers' losses, put together as the settings say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import embed_columns
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    DistillKLDivLoss,
    EmbedDistillLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.util import pairwise_cos_sim
from torch import Tensor, nn

from prune2vec.errors import ConfigError
from prune2vec.training.adapters import heads_of
from prune2vec.training.train_settings import TrainSettings

Features = dict[str, Any]


def build_loss(encoder: SentenceTransformer, settings: TrainSettings, teacher: SentenceTransformer | None = None) -> nn.Module:
    """Return the loss that the settings describe (L3Prune section 3, with options).

    Raises:
        ConfigError: A Matryoshka dimension exceeds the encoder's, or the teacher does not fit.
    """
    dimension = full_width(encoder)
    if teacher is not None:
        theirs = full_width(teacher)
        if settings.distil == "embeddings" and dimension != theirs:
            raise ConfigError(f"distil_from: its embeddings have {theirs} dimensions, these {dimension}; set distil to scores")
        if teacher.tokenizer.get_vocab() != encoder.tokenizer.get_vocab():
            raise ConfigError(
                f"distil_from: {settings.distil_from} has another tokeniser; give the encoder this one was cut from"
            )
    if settings.distils:
        return DistilledLoss(encoder, teacher, settings)
    loss: nn.Module
    if settings.cached:
        loss = CachedMultipleNegativesRankingLoss(
            encoder,
            scale=settings.scale,
            mini_batch_size=settings.mini_batch_size,
            mini_batch_num_tokens=settings.mini_batch_tokens,
        )
    else:
        loss = MultipleNegativesRankingLoss(encoder, scale=settings.scale)
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
    """The contrastive loss plus the distance to a teacher, both sentence-transformers', over one pass of the student.

    With ``scores`` a frozen encoder's and the student's scaled cosines of a row's documents are compared as distributions
    (Kullback-Leibler divergence, mean over the rows); with ``data`` the labels are the teacher's scores, (rows, documents);
    with ``embeddings`` all texts' embeddings are compared, by cosine.
    """

    def __init__(self, encoder: SentenceTransformer, teacher: SentenceTransformer | None, settings: TrainSettings) -> None:
        super().__init__()

        def scaled_cosine(a: Tensor, b: Tensor) -> Tensor:
            return settings.scale * pairwise_cos_sim(a.float(), b.float())

        self.model = encoder
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._weight = settings.distil_weight
        self._similarity = scaled_cosine
        self._contrastive = MultipleNegativesRankingLoss(encoder, scale=settings.scale)
        self._embeddings = EmbedDistillLoss(encoder) if settings.distil == "embeddings" else None
        # The student's own temperature stays at 1: the loss is multiplied by its square, and scale is in the cosines already.
        self._scores = DistillKLDivLoss(encoder, similarity_fct=scaled_cosine, teacher_temperature=settings.teacher_temperature)

    def forward(self, sentence_features: Iterable[Features], labels: Tensor) -> dict[str, Tensor]:
        """Return both parts by name; the trainer adds them up and logs each."""
        columns = list(sentence_features)
        theirs: list[Tensor] = []
        if self.teacher is not None:
            # A forward pass writes into its features, so teacher and student each get their own dictionary.
            with torch.no_grad():
                theirs = embed_columns(self.teacher, [dict(features) for features in columns])
        ours = embed_columns(self.model, columns)
        contrastive = self._contrastive.compute_loss_from_embeddings(ours, labels)
        return {"contrastive": contrastive, "distillation": self._weight * self.distance(ours, theirs, labels)}

    def distance(self, ours: list[Tensor], theirs: list[Tensor], labels: Tensor) -> Tensor:
        """Return how far the student is from the teacher, whose scores are ``labels`` where it has no vectors (``theirs``)."""
        if self._embeddings is not None:
            return self._embeddings.compute_loss_from_embeddings(ours, theirs)
        if theirs:
            labels = torch.stack([self._similarity(theirs[0], document) for document in theirs[1:]], dim=1)
        return self._scores.compute_loss_from_embeddings(ours, labels.float())


@contextmanager
def pooled_in_fp32(encoder: SentenceTransformer) -> Iterator[None]:
    """Widen token states to fp32 before they are pooled, so that pooling, heads, normalising and loss never round to bf16."""

    def widen(module: nn.Module, args: object, output: Any) -> Any:
        output["token_embeddings"] = output["token_embeddings"].float()
        return output

    handle = encoder[0].register_forward_hook(widen)
    dtypes = [(head, next(head.parameters()).dtype) for head in heads_of(encoder) if any(True for _ in head.parameters())]
    try:
        for head, _ in dtypes:
            head.float()
        yield
    finally:
        handle.remove()
        for head, dtype in dtypes:
            head.to(dtype)
