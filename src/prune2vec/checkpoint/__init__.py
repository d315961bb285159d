"""Checkpoints: read only what a plan keeps, write the form that every runtime loads, reload it and prove it equal."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune2vec.checkpoint.encoder import load_encoder as load_encoder
    from prune2vec.checkpoint.encoder import save_encoder as save_encoder
    from prune2vec.checkpoint.pruning import prune_model as prune_model
    from prune2vec.checkpoint.settings import PruneSettings as PruneSettings

_HOMES = {"load_encoder": "encoder", "save_encoder": "encoder", "prune_model": "pruning", "PruneSettings": "settings"}
__all__ = ["PruneSettings", "load_encoder", "prune_model", "save_encoder"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"prune2vec.checkpoint.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
