"""A row of named values with its place, the same for every file format, and the catalogue of formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError
from prune2vec.registry import Registry

_NEVER_PACKED = (".parquet", ".arrow")


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


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the format: ``.jsonl`` for ``a.jsonl.gz``."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def known_suffixes() -> str:
    """Return the suffixes of all formats, for messages."""
    names = formats.names()
    return f"{', '.join(names[:-1])} or {names[-1]} (text formats also with .gz)"


def read_rows(path: Path) -> Iterator[Row]:
    """Return the rows of a file in any known format, read one after the other.

    Raises:
        DataError: The format is unknown; while rows are read: the file cannot be read or holds none, or a row is broken.
    """
    suffix = suffix_of(path)
    if suffix not in formats.names() or (suffix in _NEVER_PACKED and path.suffix == ".gz"):
        raise DataError(f"{path}: unknown kind of file; expected {known_suffixes()}")
    return formats.get(suffix)(path)


def no_rows(path: Path, columns: Iterable[str] = ()) -> DataError:
    """Return what to say of a file without a row: it is rarely what was meant."""
    named = ", ".join(columns)
    return DataError(f"{path}: no rows{f', only the columns {named}' if named else ''}; give a file that holds some")
