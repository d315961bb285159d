"""The registry of scorers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune2vec.forward.runner import ModelVariant, Observer
from prune2vec.registry import Registry

if TYPE_CHECKING:
    from prune2vec.forward.backbone import Backbone
    from prune2vec.models.tokens import TokenRow
    from prune2vec.profiling.profile_settings import ProfileSettings
    from prune2vec.profiling.token_groups import TokenGroup


WHOLE = ModelVariant()


class Measurement(Observer):
    """A watcher that comes to a result.

    Attributes:
        rows: The tokenised texts that it watches.
        key: What it measures: two with equal keys, rows and variants have equal results, so one of them runs.
    """

    rows: tuple[TokenRow, ...]
    key: Hashable

    @abstractmethod
    def result(self) -> Any:
        """Return what was found when all rows have passed all layers."""


@dataclass(frozen=True)
class Request:
    """A measurement that a scorer wants made.

    Attributes:
        measurement: What is measured.
        variant: On which variant of the model.
    """

    measurement: Measurement
    variant: ModelVariant = WHOLE

    @property
    def tokens(self) -> int:
        """Tokens that it takes through the model when it runs alone."""
        return sum(len(row.ids) for row in self.measurement.rows)


Steps = Generator[Sequence[Request], Sequence[Any], Mapping[str, Any]]
"""Yields the measurements that it wants next, is sent their results, and returns the JSON-ready section of the profile."""


@dataclass(frozen=True)
class Work:
    """What a scorer is going to do; it is made before any scorer starts, so that what cannot be measured shows at once.

    Scorers go on in step, and measurements of the same texts wanted in the same step share one pass through the model.

    Attributes:
        start: Begins it. Every number in the section that it returns is finite.
        later: Tokens that it will take through the model after its first step.
    """

    start: Callable[[], Steps]
    later: int = 0


ScorerFn = Callable[["Backbone", Sequence["TokenGroup"], "ProfileSettings"], Work]

scorers: Registry[ScorerFn] = Registry("scorer", package="prune2vec.profiling")
"""Each scorer takes (backbone, tokenised groups, settings) and returns its work.

One that does not apply raises ``UnsupportedModel`` for the model or ``ConfigError`` for the settings.
"""
