"""The registry of scorers, and what a scorer measures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prune2vec.forward.runner import Observer
from prune2vec.registry import Registry

if TYPE_CHECKING:
    from prune2vec.forward.backbone import Backbone
    from prune2vec.models.kept import Kept
    from prune2vec.models.tokens import TokenRow
    from prune2vec.profiling.profile_settings import ProfileSettings
    from prune2vec.profiling.token_groups import TokenGroup


class Measurement(Observer):
    """An observer that comes to a result.

    Attributes:
        rows: The tokenised texts that it observes.
        key: What it measures: of two with equal keys, rows and cuts only one runs.
        kept: On which cut of the model; None for the whole one.
        later: Tokens that its scorer will take through the model after this step, for the progress shown.
    """

    rows: tuple[TokenRow, ...]
    key: Hashable
    kept: Kept | None = None
    later: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return sum(len(row.ids) for row in self.rows)

    @abstractmethod
    def result(self) -> Any:
        """Return what was found when all rows have passed all layers."""


Measured = Generator[Sequence[Measurement], Sequence[Any], Mapping[str, Any]]
ScorerFn = Callable[["Backbone", Sequence["TokenGroup"], "ProfileSettings"], Measured]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.profiling")
"""Each scorer is a generator function of (backbone, tokenised groups, settings).

It yields a list of the measurements that it wants and is sent their results, as often as it likes, and returns its section of
the profile: JSON-ready, every number finite. Those that several scorers want at the same time share a pass through the model,
and equal ones are made once. One that does not apply raises ``UnsupportedModel`` for the model or ``ConfigError`` for the
settings before it first yields.
"""
