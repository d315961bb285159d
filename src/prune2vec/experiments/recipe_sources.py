"""Digests of what a run reads: texts, models, encoders."""

from __future__ import annotations

from importlib.metadata import distributions
from pathlib import Path

from prune2vec.experiments.stage_records import listing
from prune2vec.files import digest_json


class SourceDigests:
    """Digests of files, folders and names, each taken once a run.

    What exists as a path is digested by its contents; anything else is a name on the hub and stands for itself.
    """

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def set(self, source: str, digest: str | None) -> None:
        """Give the digest of a source that the run itself makes; None when a dry run has not made it."""
        self._known[source] = digest

    def of(self, source: str) -> str | None:
        """Return the digest of ``source``; None only where ``set`` said so."""
        if source not in self._known:
            path = Path(source)
            self._known[source] = digest_json(listing(path)) if path.exists() else f"hub:{source}"
        return self._known[source]

    def together(self, sources: list[str]) -> str | None:
        """Return one digest of several sources; None if one of them is not made yet."""
        each = [self.of(source) for source in sources]
        return None if None in each else digest_json(each)

    def known(self) -> dict[str, str | None]:
        """Return every digest taken so far, by source."""
        return dict(sorted(self._known.items()))


def installed_packages() -> str:
    """Return a digest of the names and versions of all installed Python packages."""
    return digest_json(sorted({f"{one.name}=={one.version}" for one in distributions()}))
