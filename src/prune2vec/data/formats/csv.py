"""Comma- and tab-separated values with a header row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from prune2vec.data.rows import SourceRow, formats, no_rows, read_lines
from prune2vec.errors import DataError


@formats.register(".csv")
def read_csv(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a comma-separated file; quoted fields may span lines.

    Raises:
        DataError: A row has more or fewer fields than the header or cannot be parsed, or there is none.
    """
    return _read(path, ",")


@formats.register(".tsv")
def read_tsv(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a tab-separated file.

    Raises:
        DataError: A row has more or fewer fields than the header or cannot be parsed, or there is none.
    """
    return _read(path, "\t")


def _read(path: Path, delimiter: str) -> Iterator[SourceRow]:
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter, strict=True)
    header: list[str] = []
    number = 0
    first_line = 1
    try:
        for fields in reader:
            where, first_line = f"{path}:{first_line}", reader.line_num + 1
            if not fields:
                continue
            if not header:
                header = _header(fields, where)
                continue
            if len(fields) != len(header):
                raise DataError(f"{where}: {len(fields)} fields, but the header has {len(header)}: {', '.join(header)}")
            yield SourceRow(where, number, dict(zip(header, fields, strict=True)))
            number += 1
    except csv.Error as error:
        # An unclosed quote swallows the rest of the file, so the row's first line is the one to look at.
        raise DataError(f"{path}:{first_line}: {error}; is a quote left open? very long texts fit JSON lines better") from error
    if not number:
        raise no_rows(path, header)


def _header(fields: list[str], where: str) -> list[str]:
    names = [name.strip() for name in fields]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: two columns are called {twice!r}; give each a name of its own")
    return names
