"""A row of named values with its place, the same for every file format, and the catalogue of formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.registry import Registry


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        where: The place for messages: ``train.jsonl:17``.
        number: Number of the row in its file, from 0.
        values: The columns by name.
    """

    where: str
    number: int
    values: Mapping[str, Any]


RowReader = Callable[[Path], Iterator[Row]]

formats: Registry[RowReader] = Registry("text file format", package="prune2vec.texts.formats")
