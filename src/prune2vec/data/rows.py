"""Rows of named values from files of any known format: JSON lines, CSV and TSV (each also gzipped), Parquet and Arrow.

What cannot be read, or does not fit, is a ``DataError`` with file and line; so is a file without a row.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.errors import DataError, reason_of

_NEVER_PACKED = (".parquet", ".arrow")
_BOM = "\ufeff"
_ROWS_AT_A_TIME = 1024
_WHOLE = 2**53  # Up to here a decimal holds every whole number.
_ARROW_FILE = b"ARROW1"
_JSON_KINDS = {list: "a list", str: "a string", type(None): "null", bool: "a truth value"}


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a file: its place for messages (``train.jsonl:17``), its number from 0, and its columns by name."""

    where: str
    number: int
    values: Mapping[str, Any]


def id_text(row: SourceRow, column: str, value: Any) -> str:
    """Return an id, a string or a whole number, as text; tables with gaps hold whole numbers as 7.0."""
    if isinstance(value, str):
        return sound_text(row, column, value)
    if isinstance(value, float) and value.is_integer():
        if abs(value) > _WHOLE:
            raise DataError(
                f"{row.where}: {column} is {value:g}, and so large a decimal has lost digits; store ids as text or int64"
            )
        return str(int(value))
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{row.where}: {column} is {_kind_of(value)}, expected a string or a whole number")
    return str(value)


def sound_text(row: SourceRow, column: str, value: Any) -> str:
    """Return a text, and refuse one with half a surrogate pair, which JSON can spell and no tokeniser takes."""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {column} is {_kind_of(value)}, expected a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            found = f"\\u{ord(value[error.start]):04x}"
            raise DataError(
                f"{row.where}: {column} holds half a character ({found} at {error.start}); repair the text"
            ) from error
    return value


def _kind_of(value: object) -> str:
    return "null" if value is None else type(value).__name__


def suffix_of(path: Path) -> str:
    """Return the suffix that tells the format: ``.jsonl`` for ``a.jsonl.gz``."""
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def known_suffixes() -> str:
    """Return the suffixes of all formats, for messages."""
    names = sorted(FORMATS)
    return f"{', '.join(names[:-1])} or {names[-1]} (text formats also with .gz)"


def read_rows(path: Path) -> Iterator[SourceRow]:
    """Return the rows of a file in any known format, streaming; what cannot be read is a ``DataError`` with file and line."""
    suffix = suffix_of(path)
    if suffix not in FORMATS or (suffix in _NEVER_PACKED and path.suffix == ".gz"):
        raise DataError(f"{path}: unknown kind of file; expected {known_suffixes()}")
    return FORMATS[suffix](path)


def no_rows(path: Path, columns: Iterable[str] = ()) -> DataError:
    """Return the error for a file without a row: it is rarely what was meant."""
    named = ", ".join(columns)
    return DataError(f"{path}: no rows{f', only the columns {named}' if named else ''}; give a file that holds some")


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield ``(number from 1, line with its end)`` of a UTF-8 file, perhaps gzipped; a byte order mark is dropped."""
    number = 0
    packed = path.suffix == ".gz"
    # Binary, so that a wrong byte can be traced to its line.
    with (
        explained_read_errors(path, lambda: f":{number + 1}"),
        gzip.open(path, "rb") if packed else path.open("rb") as file,
    ):
        for number, raw in enumerate(file, start=1):
            if b"\0" in raw:
                raise DataError(
                    f"{path}:{number}: holds a NUL byte, so it is no UTF-8 text (UTF-16, or not text at all?); save it as UTF-8"
                )
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                place = f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start})"
                raise DataError(f"{place}; save the file as UTF-8") from error
            yield number, line.removeprefix(_BOM) if number == 1 else line


@contextmanager
def explained_read_errors(path: Path, place: Callable[[], str] = str) -> Iterator[None]:
    """Turn an error of the operating system or of decompression into one line; ``place`` is asked for it then: ``:17``."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}{place()}: broken gzip file ({error}); fetch it or pack it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_jsonl(path: Path) -> Iterator[SourceRow]:
    """Yield one row per line; blank lines are passed over but counted, so that row numbers are line numbers."""
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
            kind = _JSON_KINDS.get(type(values), "a number")
            raise DataError(f'{where}: expected a JSON object like {{"query": ...}}, got {kind}')
        found = True
        yield SourceRow(where, number - 1, values)
    if not found:
        raise no_rows(path)


def read_csv(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a comma- or tab-separated file with a header; quoted fields may span lines."""
    delimiter = "\t" if suffix_of(path) == ".tsv" else ","
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
                header = [name.strip() for name in fields]
                if len(set(header)) < len(header):
                    twice = next(name for name in header if header.count(name) > 1)
                    raise DataError(f"{where}: two columns are called {twice!r}; give each a name of its own")
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


def read_arrow(path: Path) -> Iterator[SourceRow]:
    """Yield the rows of a Parquet file, or of an Arrow file or stream (``datasets.save_to_disk``), a thousand in memory at most."""
    number = 0
    with _arrow_batches(path, lambda: f" after {number} rows") as (names, batches, _):
        for batch in batches:
            for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                for values in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                    yield SourceRow(f"{path}: row {number + 1}", number, values)
                    number += 1
    if not number:
        raise no_rows(path, names)


def count_rows(path: Path) -> int:
    """Return how many rows a Parquet or Arrow file has, without decoding them; a damaged one is a ``DataError``."""
    with _arrow_batches(path) as (_, batches, rows):
        return sum(batch.num_rows for batch in batches) if rows is None else rows


@contextmanager
def _arrow_batches(path: Path, place: Callable[[], str] = str) -> Iterator[tuple[list[str], Iterable[Any], int | None]]:
    """Yield the columns' names, the record batches, and the number of rows where the file says it."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    kind = "Parquet" if path.suffix == ".parquet" else "Arrow"
    with explained_read_errors(path):
        try:
            if kind == "Parquet":
                with pyarrow.parquet.ParquetFile(path) as table:
                    yield table.schema_arrow.names, table.iter_batches(batch_size=_ROWS_AT_A_TIME), table.metadata.num_rows
                return
            with path.open("rb") as raw:
                is_file = raw.read(len(_ARROW_FILE)) == _ARROW_FILE
            with pyarrow.memory_map(str(path)) as source:
                if is_file:
                    file = pyarrow.ipc.open_file(source)
                    yield file.schema.names, map(file.get_batch, range(file.num_record_batches)), None
                else:
                    stream = pyarrow.ipc.open_stream(source)
                    yield stream.schema.names, stream, None
        # Strings that are not UTF-8, and columns of one name, are ValueErrors of Python's own; damaged pages are OSErrors
        # that no operating system reported.
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise DataError(f"{path}: not a readable {kind} file{place()}: {reason_of(error)}") from error


FORMATS: Mapping[str, Callable[[Path], Iterator[SourceRow]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".parquet": read_arrow,
    ".arrow": read_arrow,
}
"""Readers by the suffix of their files."""
