"""What a verb returns, and what it does for ``--dry-run``: cheap looks at its inputs, nothing loaded, nothing written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune2vec.errors import CheckpointError, DataError, shown_json, shown_lines


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
    target = str(writes) if writes is not None else None
    data = {"dry_run": True, "action": action, "reads": sources, "writes": target, "settings": dict(settings or {})}
    return Outcome("\n".join(lines), data)


def check_model(name: str) -> None:
    """Look whether a local model folder holds a model; hub ids and GGUF files are taken as they are.

    Raises:
        ModelError: The folder holds no model.
    """
    if os.path.isdir(name):
        from prune2vec.models.source import resolve_source

        resolve_source(name)


def check_texts(source: str) -> None:
    """Read the first triplet of a local source.

    Raises:
        DataError: It cannot be read, has the wrong columns or no rows.
    """
    if not os.path.exists(source):
        return
    from prune2vec.data.reader import read_triplets

    if next(iter(read_triplets(source)), None) is None:
        raise DataError(f"{source} holds no triplets")


def check_encoder(folder: Path) -> None:
    """Look whether a folder is a SentenceTransformer's.

    Raises:
        CheckpointError: It is not.
    """
    if not (folder / "modules.json").is_file():
        raise CheckpointError(f"{folder} has no modules.json, so it is no encoder; make one with prune2vec prune")
