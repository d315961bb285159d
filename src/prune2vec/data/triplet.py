"""The unit of data: an anchor, a text that fits it, and texts that do not; written so that every trainer reads it, and how it is mined."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from prune2vec.errors import DataError
from prune2vec.files import write_bytes
from prune2vec.settings import Seed, Settings


class TripletSettings(Settings):
    """How many pairs are made of which texts, with how many negatives, and how many of them are held out."""

    packages: tuple[str, ...] | None = None
    """Only the docstrings of these packages; default: of all that are installed."""
    max_pairs: int | None = Field(default=None, ge=1, le=10**9)
    """At most so many (query, text) pairs."""
    negatives: int = Field(default=1, ge=0, le=10**3)
    """Hard negatives for each pair; 0 leaves them out."""
    dev_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Largest share of the pairs to hold out, by whole packages or files."""
    seed: Seed = 42
    """Seed of the split and of the draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Triplet:
    """One row of training or probing data.

    Attributes:
        anchor: The query.
        positive: The text that answers it.
        negatives: Texts that do not, hardest first; empty where the source has none.
        dataset: Name of the data set, which chooses the instruction and the homogeneous batches.
        line: Number of the row in its file, from 0 (the public E5 set alternates two instructions by it).
        scores: A teacher's scores, the positive's first and then the negatives'; empty without a teacher.
        group: Package or file from which the row was mined; a split never tears a group apart.
    """

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()
    dataset: str = ""
    line: int = 0
    scores: tuple[float, ...] = ()
    group: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """Anchor, positive and negatives, in this order."""
        return (self.anchor, self.positive, *self.negatives)


def digest_texts(triplets: Iterable[Triplet]) -> str:
    """Return the SHA-256 over texts, data set names and scores, in order; line numbers and groups do not count."""
    digest = hashlib.sha256()
    for triplet in triplets:
        row = (triplet.anchor, triplet.positive, triplet.negatives, triplet.dataset, triplet.scores)
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


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
    write_json_lines(map(_columns, triplets), path)


def _columns(triplet: Triplet) -> dict[str, Any]:
    row: dict[str, Any] = {"query": triplet.anchor, "positive": triplet.positive}
    single = len(triplet.negatives) == 1
    row |= {"negative" if single else f"negative_{number}": text for number, text in enumerate(triplet.negatives, start=1)}
    row |= {name: value for name, value in (("dataset", triplet.dataset), ("group", triplet.group)) if value}
    if triplet.scores:
        row |= {"pos_scores": list(triplet.scores[:1]), "neg_scores": list(triplet.scores[1:])}
    return row


def write_json_lines(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write one JSON object a line, gzipped when the name ends in ``.gz``, whole or not at all."""
    lines = (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    content = io.BytesIO()
    if path.suffix == ".gz":
        # Neither name nor time in the header, so that equal data are equal files.
        with gzip.GzipFile("", "wb", 6, content, mtime=0) as packed:
            packed.writelines(lines)
    else:
        content.writelines(lines)
    write_bytes(path, content.getvalue())
