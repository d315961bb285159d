"""Scorers: model and texts in, profile out. ``profile_model`` runs them; each is one file here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.scorers.measure import profile_model as profile_model
    from prune2vec.scorers.settings import ProfileSettings as ProfileSettings

__all__ = ["ProfileSettings", "profile_model"]
__getattr__ = lazy_names(
    __name__,
    measure=("profile_model",),
    settings=("ProfileSettings",),
)
