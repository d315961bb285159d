"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from prune2vec.data.rows import SourceRow, formats, no_rows, read_lines
from prune2vec.errors import DataError, reason_of


@formats.register(".ndjson")
@formats.register(".jsonl")
def read_jsonl(path: Path) -> Iterator[SourceRow]:
    """Yield one row per line; blank lines are passed over but counted, so that row numbers are line numbers.

    Raises:
        DataError: A line is not a JSON object, or there is none.
    """
    found = False
    for number, line in read_lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            raise DataError(f"{where}: not JSON: {error.msg} at character {error.pos + 1}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not readable JSON: {reason_of(error)}") from error
        if not isinstance(values, dict):
            raise DataError(f'{where}: expected a JSON object like {{"query": ...}}, got {_kind(values)}')
        found = True
        yield SourceRow(where, number - 1, values)
    if not found:
        raise no_rows(path)


def _kind(value: object) -> str:
    names = {list: "a list", str: "a string", type(None): "null", bool: "a truth value"}
    return names.get(type(value), "a number")
