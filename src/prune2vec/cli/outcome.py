"""What a verb hands back: one result, as text for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune2vec.errors import shown_json, shown_lines


@dataclass(frozen=True)
class Outcome:
    """The result of a verb.

    Attributes:
        text: For people; printed by default.
        data: For programs; printed with ``--json``.
    """

    text: str
    data: Mapping[str, Any] = field(default_factory=dict)

    def printed(self, *, as_json: bool) -> str:
        """Return what goes to the terminal: no control character of a text or a name does so as it is."""
        return shown_json(self.data) if as_json else shown_lines(self.text)


def would(action: str, *, reads: Iterable[object], writes: Path | None, settings: Mapping[str, Any] | None = None) -> Outcome:
    """Describe what a verb would do, for ``--dry-run``.

    Args:
        action: What would be done, in the infinitive: ``"profile smollm2"``.
        reads: Its inputs, already checked.
        writes: Its output, or None when it would only print.
        settings: The resolved settings.
    """
    sources = [str(source) for source in reads]
    lines = [f"would {action}"]
    lines += [f"  reads   {source}" for source in sources]
    lines += [f"  writes  {writes}"] if writes is not None else []
    lines += [f"  {name} = {value}" for name, value in (settings or {}).items()]
    data = {
        "dry_run": True,
        "action": action,
        "reads": sources,
        "writes": str(writes) if writes is not None else None,
        "settings": dict(settings or {}),
    }
    return Outcome("\n".join(lines), data)
