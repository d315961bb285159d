"""Reading triplets from a file, a folder of files or a hub data set, one row at a time."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune2vec.errors import DataError
from prune2vec.progress import say
from prune2vec.texts.formats import Row, formats
from prune2vec.texts.hub import HubSource, parse_hub_source, read_hub
from prune2vec.texts.layouts import EXPECTED, triplets_of
from prune2vec.texts.skipped import Skipped
from prune2vec.texts.triplet import Triplet

_HELD_OUT = ("dev", "valid", "validation", "test", "eval")
_ROLE = re.compile(rf"\.(train|{'|'.join(_HELD_OUT)})$")
# A folder with retrieval data or with mined pairs has these beside the triplets.
_NOT_TRIPLETS = ("corpus", "queries", "qrels")


@dataclass(frozen=True, slots=True)
class Table:
    """A file or hub data set: its name for messages, the name of the data set, and its rows."""

    name: str
    dataset: str
    rows: Iterable[Row]


def read_triplets(source: str | Path, *, require_negative: bool = True, skipped: Skipped | None = None) -> Iterator[Triplet]:
    """Yield the triplets of one source, streaming.

    The source is a file (JSON lines, CSV, TSV, plain or gzipped, or Parquet), a folder of such files in the order of their
    names, or the id of a hub data set: ``owner/name``, ``owner/name:configuration``, ``owner/name@revision``. A file is a
    data set of the name of its stem; a ``dataset`` column overrides it. In a folder, held-out files (``*.dev.*``, ``dev.*``
    and likewise valid, validation, test, eval) are left out when there are others, and so are corpus, queries and qrels.
    Rows in which a text is empty are passed over and counted.

    Args:
        source: Path or hub id.
        require_negative: Whether a row without negatives is an error (no such column) or incomplete (no such text).
        skipped: Collects what was passed over; without it, one line on stderr tells.

    Raises:
        DataError: Nothing is there, a file is empty or cannot be read, or a row does not fit; the message has file and line.
    """
    counted = Skipped() if skipped is None else skipped
    for table in _tables(source):
        yield from _read_table(table, require_negative=require_negative, skipped=counted)
    if skipped is None and counted.empties:
        say(f"{source}: passed over {counted.empties} rows with an empty text, the first at {counted.first}")


def load_triplets(
    sources: str | Path | Sequence[str | Path], *, require_negative: bool = True, skipped: Skipped | None = None
) -> list[Triplet]:
    """Read all triplets of one or several sources into memory, in order.

    Raises:
        DataError: As ``read_triplets``; or there is no source at all.
    """
    several = [sources] if isinstance(sources, str | Path) else list(sources)
    if not several:
        raise DataError("no source of texts was given; expected a file, a folder or a hub data set")
    rows = (read_triplets(source, require_negative=require_negative, skipped=skipped) for source in several)
    return [triplet for source in rows for triplet in source]


def _read_table(table: Table, *, require_negative: bool, skipped: Skipped) -> Iterator[Triplet]:
    rows = kept = 0
    for row in table.rows:
        rows += 1
        found = 0
        for triplet in triplets_of(row, dataset=table.dataset, require_negative=require_negative):
            found += 1
            yield triplet
        kept += bool(found)
        if not found:
            skipped.add(row.where)
    if not rows:
        raise DataError(f"{table.name}: no rows; expected columns {EXPECTED}")
    if not kept:
        raise DataError(f"{table.name}: all {rows} rows have an empty text; expected columns {EXPECTED}")


def dataset_name(path: Path) -> str:
    """Return the data set's name of a file: ``squad`` for ``squad.dev.jsonl.gz``."""
    stem = _stem(path)
    return _ROLE.sub("", stem) or stem


def find_files(folder: Path) -> list[Path]:
    """Return the files of triplets in a folder, sorted by name, held-out ones only where there are no others.

    Raises:
        DataError: No file has a known suffix.
    """
    known = [path for path in sorted(folder.iterdir()) if path.is_file() and _suffix(path) in formats.names()]
    files = [path for path in known if not path.name.startswith(".") and _stem(path) not in _NOT_TRIPLETS]
    if not files:
        if known:
            raise DataError(f"{folder}: a folder of queries and documents, not of triplets; it is for evaluation only")
        raise DataError(f"{folder}: no file of texts in this folder; expected {_known_suffixes()}")
    held_out = [path for path in files if _is_held_out(path)]
    if held_out and len(held_out) < len(files):
        files = [path for path in files if path not in held_out]
    return files


def _tables(source: str | Path) -> Iterator[Table]:
    path = Path(source).expanduser()
    if path.is_dir():
        for file in find_files(path):
            yield Table(str(file), dataset_name(file), _rows(file))
    elif path.exists():
        yield Table(str(path), dataset_name(path), _rows(path))
    else:
        hub = _hub_source(str(source), path)
        yield Table(hub.name, hub.dataset, read_hub(hub))


def _rows(path: Path) -> Iterator[Row]:
    suffix = _suffix(path)
    if suffix not in formats.names() or (suffix == ".parquet" and path.suffix == ".gz"):
        raise DataError(f"{path}: unknown kind of file; expected {_known_suffixes()}")
    if not path.stat().st_size:
        raise DataError(f"{path}: empty file; expected columns {EXPECTED}")
    return formats.get(suffix)(path)


def _hub_source(source: str, path: Path) -> HubSource:
    """Tell a hub id from a mistyped path: what has a known suffix or starts in an existing folder is a path."""
    hub = parse_hub_source(source)
    if hub is None or _suffix(path) in formats.names() or (path.parent.is_dir() and str(path.parent) != "."):
        raise DataError(f"{source}: no such file or folder{_near(path)}")
    return hub


def _near(path: Path) -> str:
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.6)
    return f"; did you mean {str(path.parent / close[0])!r}?" if close else ""


def _is_held_out(path: Path) -> bool:
    return _stem(path).rpartition(".")[2] in _HELD_OUT


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _stem(path: Path) -> str:
    bare = path.name.removesuffix(".gz")
    return bare.removesuffix(_suffix(path)) if _suffix(path) in formats.names() else bare


def _known_suffixes() -> str:
    names = formats.names()
    return f"{', '.join(names[:-1])} or {names[-1]} (text formats also with .gz)"
