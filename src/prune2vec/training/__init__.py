"""Train a pruned checkpoint into an encoder, with sentence-transformers' trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.training.mining import MinedNegatives as MinedNegatives
    from prune2vec.training.mining import mine_negatives as mine_negatives
    from prune2vec.training.mining_settings import MiningSettings as MiningSettings
    from prune2vec.training.run import TrainResult as TrainResult
    from prune2vec.training.run import train_encoder as train_encoder
    from prune2vec.training.settings import TrainSettings as TrainSettings

__all__ = ["MinedNegatives", "MiningSettings", "TrainResult", "TrainSettings", "mine_negatives", "train_encoder"]
__getattr__ = lazy_names(
    __name__,
    mining=("MinedNegatives", "mine_negatives"),
    mining_settings=("MiningSettings",),
    run=("TrainResult", "train_encoder"),
    settings=("TrainSettings",),
)
