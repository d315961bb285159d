"""The registry of scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prune2vec.registry import Registry

if TYPE_CHECKING:
    from prune2vec.backbone.load import Backbone
    from prune2vec.scorers.groups import TokenGroup
    from prune2vec.scorers.settings import ProfileSettings

Advance = Callable[[float], None]
ScorerFn = Callable[["Backbone", Sequence["TokenGroup"], "ProfileSettings", Advance], Mapping[str, Any]]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.scorers")
"""Each scorer takes (backbone, tokenised groups, settings, advance) and returns its JSON-ready section of the profile.

A section holds at least one list with one finite number a layer. ``advance`` is to be called with the number of tokens
done, ``token_count(groups)`` in all.
"""
