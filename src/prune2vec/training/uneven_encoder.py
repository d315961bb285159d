"""A model in memory as a sentence-transformers encoder, as ``prune`` would write it; blocks need not be alike."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import PreTrainedModel

from prune2vec.models.prepared_text import PreparedText
from prune2vec.models.quiet import quiet_transformers
from prune2vec.pruning.portable import write_tokenizer


def encoder_around(model: PreTrainedModel, text: PreparedText, *, device: torch.device) -> SentenceTransformer:
    """Return an encoder whose weights are those of ``model``, not a copy.

    Args:
        model: A base model.
        text: How texts reach it, and how its states become a vector.
        device: Where the model is moved to.
    """
    settings = text.settings

    class InMemory(Transformer):
        """Takes the model that is there instead of loading one."""

        def _load_config(self, *args: Any, **kwargs: Any) -> tuple[Any, bool]:
            return model.config, False

        def _load_model(self, *args: Any, **kwargs: Any) -> PreTrainedModel:
            return model

    with TemporaryDirectory() as folder, quiet_transformers():
        write_tokenizer(text.tokenizer, Path(folder), max_length=settings.max_length)
        transformer = InMemory(folder, max_seq_length=settings.max_length)
    dimension = getattr(model.config, "word_embed_proj_dim", None) or model.config.hidden_size
    modules = [
        transformer,
        Pooling(dimension, pooling_mode=settings.pooling, include_prompt=settings.include_prompt),
        Normalize(),
    ]
    return SentenceTransformer(modules=modules, device=str(device))
