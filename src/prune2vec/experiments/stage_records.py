"""Stamps tell a stage that is done from one that must be done (again).

A stage writes its output under a temporary name and renames it into place; only then its stamp is written, which holds
the key the output was made from and a listing of the output's files. So a stage counts as done when its stamp has the
wanted key and its output still equals the listing. Killed in between, it is done again and gives the same output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError
from prune2vec.files import digest_json, fingerprint, read_json, write_json

FORMAT = "prune2vec.stamp/1"

Listing = dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What a finished stage leaves behind.

    Attributes:
        stage: Name of the stage: ``"large.train"``.
        key: Digest of everything the output depends on.
        inputs: What the key was made of, to be read when a stage runs again unexpectedly.
        output: Listing of the output: file name to ``[bytes, digest]``.
        seconds: How long the stage took; for a stage that was interrupted and resumed, its last part.
        finished: When, in UTC.
    """

    stage: str
    key: str
    inputs: Mapping[str, Any]
    output: Listing
    seconds: float
    finished: str

    @property
    def output_digest(self) -> str:
        """Digest of the output's files, for the keys of the stages that read them."""
        return digest_json(self.output)


def listing(path: Path) -> Listing:
    """Return size and digest of a file, or of every visible file below a folder; empty when nothing is there."""
    if path.is_file():
        return {path.name: fingerprint(path)}
    names = ((file.relative_to(path), file) for file in sorted(path.rglob("*")) if file.is_file())
    return {name.as_posix(): fingerprint(file) for name, file in names if not any(part.startswith(".") for part in name.parts)}


def load_stamp(path: Path) -> StageRecord | None:
    """Return the stamp at ``path``; None when there is none or it cannot be understood (then the stage is done again)."""
    try:
        value = read_json(path)
        if value.pop("format") != FORMAT:
            return None
        return StageRecord(**value)
    except (DataError, AttributeError, KeyError, TypeError):
        return None


def is_done(stamp: StageRecord | None, *, key: str, output: Path) -> bool:
    """Return whether ``output`` was made from ``key`` and still is what the stage left."""
    return stamp is not None and stamp.key == key and bool(stamp.output) and listing(output) == stamp.output


def save_stamp(path: Path, *, stage: str, inputs: Mapping[str, Any], output: Path, seconds: float) -> StageRecord:
    """Write and return the stamp of a stage whose output is in place.

    Raises:
        CheckpointError: The stamp cannot be written.
    """
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    key, files = digest_json(inputs), listing(output)
    stamp = StageRecord(stage=stage, key=key, inputs=inputs, output=files, seconds=round(seconds, 3), finished=finished)
    write_json(path, {"format": FORMAT, **asdict(stamp)})
    return stamp
