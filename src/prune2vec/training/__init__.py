"""Train a pruned checkpoint into an encoder, with sentence-transformers' trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.training.run import TrainResult as TrainResult
    from prune2vec.training.run import train_encoder as train_encoder
    from prune2vec.training.settings import TrainSettings as TrainSettings

__all__ = ["TrainResult", "TrainSettings", "train_encoder"]
__getattr__ = lazy_names(
    __name__,
    run=("TrainResult", "train_encoder"),
    settings=("TrainSettings",),
)
