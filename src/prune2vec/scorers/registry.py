"""The registry of scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune2vec.registry import Registry

if TYPE_CHECKING:
    from prune2vec.backbone.load import Backbone
    from prune2vec.scorers.groups import TokenGroup
    from prune2vec.scorers.settings import ProfileSettings

Advance = Callable[[float], None]


@dataclass(frozen=True)
class Work:
    """What a scorer is going to do; it is made before any scorer starts, so that what cannot be measured shows at once.

    Attributes:
        tokens: Tokens that it will send through the model, over all its passes.
        measure: Does it, calls the function it is given with the number of tokens done, and returns the JSON-ready
            section of the profile, in which every number is finite.
    """

    tokens: int
    measure: Callable[[Advance], Mapping[str, Any]]


ScorerFn = Callable[["Backbone", Sequence["TokenGroup"], "ProfileSettings"], Work]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.scorers")
"""Each scorer takes (backbone, tokenised groups, settings) and returns its work.

One that does not apply raises ``UnsupportedModel`` for the model or ``ConfigError`` for the settings.
"""
