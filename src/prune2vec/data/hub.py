"""Rows of a data set on the hub, streamed through ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from prune2vec.data.rows import SourceRow
from prune2vec.errors import DataError, reason_of

_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ID = re.compile(rf"({_WORD}/{_WORD})(?::([A-Za-z0-9._-]+))?(?:@([A-Za-z0-9._/-]+))?")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set id with its configuration and revision, as in ``owner/name:configuration@revision``."""

    repo: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"

    @property
    def name(self) -> str:
        """The source as the user wrote it."""
        return self.repo + (f":{self.config}" if self.config else "") + (f"@{self.revision}" if self.revision else "")

    @property
    def dataset(self) -> str:
        """Name of the data set without its owner."""
        return self.repo.rpartition("/")[2]


def parse_hub_source(text: str) -> HubSource | None:
    """Return the hub data set that ``text`` names, or None when it does not look like one."""
    match = _ID.fullmatch(text)
    return HubSource(repo=match[1], config=match[2], revision=match[3]) if match else None


def read_hub(source: HubSource) -> Iterator[SourceRow]:
    """Yield the rows of a hub data set without downloading it whole.

    Raises:
        DataError: It does not exist, cannot be reached, or has no such configuration or split.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(source.repo, source.config, split=source.split, revision=source.revision, streaming=True)
        for number, values in enumerate(rows):
            yield SourceRow(f"{source.name}: row {number + 1}", number, values)
    except (OSError, ValueError, DatasetsError) as error:
        advice = "expected an existing file, a folder or a hub data set (owner/name)"
        raise DataError(f"cannot read {source.name}: {reason_of(error)}; {advice}") from error
