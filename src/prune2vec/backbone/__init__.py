"""The model under study: find it, load it, tokenise for it, run it once and pool every depth on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.backbone.load import Backbone as Backbone
    from prune2vec.backbone.load import load_backbone as load_backbone
    from prune2vec.backbone.source import ModelSource as ModelSource
    from prune2vec.backbone.source import resolve_source as resolve_source

__all__ = ["Backbone", "ModelSource", "load_backbone", "resolve_source"]
__getattr__ = lazy_names(
    __name__,
    load=("Backbone", "load_backbone"),
    source=("ModelSource", "resolve_source"),
)
