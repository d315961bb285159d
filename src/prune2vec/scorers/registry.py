"""The registry of scorers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from prune2vec.registry import Registry

if TYPE_CHECKING:
    from prune2vec.backbone.load import Backbone
    from prune2vec.scorers.groups import TokenGroup
    from prune2vec.scorers.settings import ProfileSettings

Advance = Callable[[float], None]
Found = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Work:
    """What a scorer is going to do; it is made before any scorer starts, so that what cannot be measured shows at once.

    Attributes:
        tokens: Tokens that it will send through the model, over all its passes, when nothing has been measured before.
        measure: Does it, calls the function it is given with the number of tokens done, and returns the JSON-ready
            section of the profile, in which every number is finite. It also gets the sections found before, by scorer.
        reuses: Scorers whose sections it takes over where they are found, and how many tokens that saves. A scorer that
            names any is run after those that name none.
    """

    tokens: int
    measure: Callable[[Advance, Found], Mapping[str, Any]]
    reuses: Mapping[str, int] = field(default_factory=dict)

    def tokens_after(self, found: Collection[str]) -> int:
        """Return the tokens that are left to do when the sections named in ``found`` are there."""
        return self.tokens - sum(saved for name, saved in self.reuses.items() if name in found)


ScorerFn = Callable[["Backbone", Sequence["TokenGroup"], "ProfileSettings"], Work]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.scorers")
"""Each scorer takes (backbone, tokenised groups, settings) and returns its work.

One that does not apply raises ``UnsupportedModel`` for the model or ``ConfigError`` for the settings.
"""
