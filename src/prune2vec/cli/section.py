"""A group of command-line options that comes from a settings class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune2vec.records.settings import Settings


@dataclass(frozen=True)
class Section:
    """A settings class whose fields are options of a verb.

    Attributes:
        keyword: The verb's function gets the built settings under this name.
        title: Heading of these options in the help.
        load: Returns the class; called only when the verb is used, so that the list of verbs imports no settings.
    """

    keyword: str
    title: str
    load: Callable[[], type[Settings]]
