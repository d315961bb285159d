"""The model under study: find it, load it, tokenise for it, run it once and pool every depth on the way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune2vec.backbone.load import Backbone as Backbone
    from prune2vec.backbone.load import load_backbone as load_backbone
    from prune2vec.backbone.source import ModelSource as ModelSource
    from prune2vec.backbone.source import resolve_source as resolve_source

_HOMES = {"Backbone": "load", "load_backbone": "load", "ModelSource": "source", "resolve_source": "source"}
__all__ = ["Backbone", "ModelSource", "load_backbone", "resolve_source"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"prune2vec.backbone.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
