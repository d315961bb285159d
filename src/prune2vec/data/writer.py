"""Writing triplets so that the reader, and every trainer of the field, reads them back."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.files import explained_os_errors

_COMPRESSION = 6


def write_triplets(triplets: Iterable[Triplet], path: Path) -> None:
    """Write JSON lines (gzipped when the name ends in ``.gz``), whole or not at all.

    Columns are query, positive, negative (or negative_1, ...), and where they are set dataset, group, pos_scores and
    neg_scores. The same triplets give the same bytes. Line numbers are not written: a file's own rows count anew.

    Raises:
        DataError: The name does not end in ``.jsonl`` or ``.jsonl.gz``.
        CheckpointError: The file cannot be written.
    """
    if not path.name.endswith((".jsonl", ".jsonl.gz")):
        raise DataError(f"cannot write triplets to {path.name}; the name must end in .jsonl or .jsonl.gz")
    write_json_lines((_columns(triplet) for triplet in triplets), path)


def write_json_lines(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object a line, gzipped when the name ends in ``.gz``, whole or not at all.

    Raises:
        CheckpointError: The file cannot be written.
    """
    with explained_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
        try:
            with partial.open("wb") as raw:
                if path.suffix == ".gz":
                    # Neither name nor time in the header, so that equal data are equal files.
                    with gzip.GzipFile("", "wb", _COMPRESSION, raw, mtime=0) as packed:
                        packed.writelines(map(_encoded, rows))
                else:
                    raw.writelines(map(_encoded, rows))
                raw.flush()
                os.fsync(raw.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _encoded(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _columns(triplet: Triplet) -> dict[str, Any]:
    columns: dict[str, Any] = {"query": triplet.anchor, "positive": triplet.positive}
    if len(triplet.negatives) == 1:
        columns["negative"] = triplet.negatives[0]
    else:
        columns |= {f"negative_{number}": text for number, text in enumerate(triplet.negatives, start=1)}
    if triplet.dataset:
        columns["dataset"] = triplet.dataset
    if triplet.group:
        columns["group"] = triplet.group
    if triplet.scores:
        columns["pos_scores"] = list(triplet.scores[:1])
        columns["neg_scores"] = list(triplet.scores[1:])
    return columns
