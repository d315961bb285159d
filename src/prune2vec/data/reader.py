"""Reading triplets from a file, a folder of files or a hub data set, one row at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prune2vec.data.folders import TRAIN, choose_files, dataset_name
from prune2vec.data.layouts import EXPECTED, triplets_of
from prune2vec.data.rows import FORMATS, SourceRow, read_rows, suffix_of
from prune2vec.data.triplet import Skipped, Triplet
from prune2vec.errors import DataError, reason_of
from prune2vec.paths import closest
from prune2vec.progress import say

Texts = str | Path | Sequence[str | Path] | Sequence[Triplet]
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"({_WORD}/{_WORD})(?::([A-Za-z0-9._-]+))?(?:@([A-Za-z0-9._/-]+))?")


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set on the hub with its configuration and revision, as in ``owner/name:configuration@revision``."""

    repo: str
    config: str | None = None
    revision: str | None = None
    split: str = "train"

    @property
    def name(self) -> str:
        """The source as the user wrote it."""
        return self.repo + (f":{self.config}" if self.config else "") + (f"@{self.revision}" if self.revision else "")

    @property
    def dataset(self) -> str:
        """Name of the data set without its owner."""
        return self.repo.rpartition("/")[2]


def parse_hub_source(text: str) -> HubSource | None:
    """Return the hub data set that ``text`` names, or None when it does not look like one."""
    match = _HUB_ID.fullmatch(text)
    return HubSource(repo=match[1], config=match[2], revision=match[3]) if match else None


def read_hub(source: HubSource) -> Iterator[SourceRow]:
    """Yield the rows of a hub data set, streamed through ``datasets``.

    Raises:
        DataError: It does not exist, cannot be reached, or has no such configuration or split.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        rows = datasets.load_dataset(source.repo, source.config, split=source.split, revision=source.revision, streaming=True)
        for number, values in enumerate(rows):
            yield SourceRow(f"{source.name}: row {number + 1}", number, values)
    except (OSError, ValueError, DatasetsError) as error:
        advice = "expected an existing file, a folder or a hub data set (owner/name)"
        raise DataError(f"cannot read {source.name}: {reason_of(error)}; {advice}") from error


def read_triplets(
    source: str | Path, *, require_negative: bool = True, split: str = TRAIN, skipped: Skipped | None = None
) -> Iterator[Triplet]:
    """Yield the triplets of one source, streaming.

    The source is a file (JSON lines, CSV, TSV, plain or gzipped, Parquet or Arrow), a folder of such files in the order of
    their names, or the id of a hub data set: ``owner/name``, ``owner/name:configuration``, ``owner/name@revision``. A file is
    a data set of the name of its stem without split and shard, so that shards are one; a ``dataset`` column overrides it. Of a
    folder the files of one split are read, with one line on what is left out (``choose_files``); corpus, queries and qrels
    are no triplets. Rows in which a text is empty are passed over and counted.

    Args:
        source: Path or hub id.
        require_negative: Whether a row without negatives is an error (no such column) or incomplete (no such text).
        split: Which files of a folder are read: with train never held-out ones, else those if there are any.
        skipped: Collects what was passed over; without it, one line on stderr tells.

    Raises:
        DataError: Nothing is there, a file is empty or cannot be read, or a row does not fit; the message has file and line.
    """
    counted = Skipped() if skipped is None else skipped
    for name, dataset, rows in _tables(source, split):
        seen = kept = 0
        for row in rows:
            seen += 1
            found = 0
            for triplet in triplets_of(row, dataset=dataset, require_negative=require_negative):
                found += 1
                yield triplet
            kept += bool(found)
            if not found:
                counted.add(row.where)
        if not kept:
            raise DataError(f"{name}: all {seen} rows have an empty text; expected columns {EXPECTED}")
    if skipped is None and counted.empties:
        say(f"{source}: passed over {counted.empties} rows with an empty text, the first at {counted.first}")


def _tables(source: str | Path, split: str) -> Iterator[tuple[str, str, Iterable[SourceRow]]]:
    """Yield each file's or hub data set's name for messages, its data set, and its rows."""
    path = Path(source).expanduser()
    if path.is_dir():
        ends: Counter[str] = Counter()
        for file in choose_files(path, split):
            yield str(file.path), file.dataset, _numbered_on(read_rows(file.path), ends, file.dataset)
    elif path.exists():
        yield str(path), dataset_name(path), read_rows(path)
    else:
        hub = parse_hub_source(str(source))
        # A hub id, and no mistyped path: that has a known suffix or starts in an existing folder.
        if hub is None or suffix_of(path) in FORMATS or (path.parent.is_dir() and str(path.parent) != "."):
            raise DataError(f"{source}: no such file or folder{closest(path)}")
        yield hub.name, hub.dataset, read_hub(hub)


def _numbered_on(rows: Iterable[SourceRow], ends: Counter[str], dataset: str) -> Iterator[SourceRow]:
    """Number the rows of a shard on from those before it: the public E5 set tells two instructions by the number."""
    first = ends[dataset]
    for row in rows:
        ends[dataset] = first + row.number + 1
        yield replace(row, number=first + row.number) if first else row


def load_triplets(
    sources: str | Path | Sequence[str | Path],
    *,
    require_negative: bool = True,
    split: str = TRAIN,
    skipped: Skipped | None = None,
) -> list[Triplet]:
    """Read all triplets of one or several sources into memory, in order.

    Raises:
        DataError: As ``read_triplets``; or there is no source at all.
    """
    several = [sources] if isinstance(sources, str | Path) else list(sources)
    if not several:
        raise DataError("no source of texts was given; expected a file, a folder or a hub data set")
    rows = (read_triplets(source, require_negative=require_negative, split=split, skipped=skipped) for source in several)
    return [triplet for source in rows for triplet in source]


def given_triplets(texts: Texts, *, require_negative: bool = True, split: str = TRAIN) -> list[Triplet]:
    """Return triplets that were given as such, or read them from one or several files, folders and hub data sets.

    Raises:
        DataError: They cannot be read, there are none, or they are neither triplets nor sources.
    """
    if not isinstance(texts, str | Path | Iterable):
        raise DataError(f"expected triplets, or files, folders and hub data sets, got {texts!r}")
    listed = [texts] if isinstance(texts, str | Path) else list(texts)
    rows = [one for one in listed if isinstance(one, Triplet)]
    sources = [one for one in listed if isinstance(one, str | Path)]
    if len(rows) < len(listed) and len(sources) < len(listed):
        other = next((one for one in listed if not isinstance(one, Triplet | str | Path)), sources[:1])
        raise DataError(f"expected triplets alone, or files, folders and hub data sets alone, got {other!r} among them")
    return rows or load_triplets(sources, require_negative=require_negative, split=split)
