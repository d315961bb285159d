"""Checkpoints: read only what a plan keeps, write the form that every runtime loads, reload it and prove it equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.checkpoint.encoder import load_encoder as load_encoder
    from prune2vec.checkpoint.encoder import save_encoder as save_encoder
    from prune2vec.checkpoint.pruning import prune_model as prune_model
    from prune2vec.checkpoint.settings import PruneSettings as PruneSettings

__all__ = ["PruneSettings", "load_encoder", "prune_model", "save_encoder"]
__getattr__ = lazy_names(
    __name__,
    encoder=("load_encoder", "save_encoder"),
    pruning=("prune_model",),
    settings=("PruneSettings",),
)
