"""Scorers: model and texts in, profile out. ``profile_model`` runs them; each is one file here."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prune2vec.scorers.measure import profile_model as profile_model
    from prune2vec.scorers.settings import ProfileSettings as ProfileSettings

_HOMES = {"profile_model": "measure", "ProfileSettings": "settings"}
__all__ = ["ProfileSettings", "profile_model"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"prune2vec.scorers.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
