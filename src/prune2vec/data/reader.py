"""Triplets from a file, a folder of files or a hub data set, one row at a time: named columns, texts or lists of texts."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from prune2vec.data.documents import full_text
from prune2vec.data.folders import TRAIN, choose_files, chosen_splits, dataset_name, split_told
from prune2vec.data.rows import FORMATS, SourceRow, read_rows, sound_text, suffix_of
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError, reason_of
from prune2vec.paths import closest
from prune2vec.progress import say

Texts = str | Path | Sequence[str | Path] | Sequence[Triplet]
_WORD = r"[A-Za-z0-9][A-Za-z0-9._-]*"
HUB_DATASET = re.compile(rf"({_WORD}/{_WORD})(?::([A-Za-z0-9._-]+))?(?:@([A-Za-z0-9._/-]+))?")
"""A data set on the hub with its configuration and revision, as in ``owner/name:configuration@revision``."""
_EXPECTED = "anchor (or query), positive, negative (or negative_1, negative_2, ...), each a text or a list of texts"
_ANCHORS = ("anchor", "query")
_POSITIVES = ("positive", "positives", "pos", "positive_passages")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages")
_NUMBERED = re.compile(r"neg(?:ative)?s?[-_ ]?(\d+)")


def load_triplets(texts: Texts, *, require_negative: bool = True, split: str = TRAIN) -> list[Triplet]:
    """Return triplets that were given as such, or read all of one or several files, folders and hub data sets, in order.

    Raises:
        DataError: As ``read_triplets``; or there are none, or they are neither triplets nor sources.
    """
    if not isinstance(texts, str | Path | Iterable):
        raise DataError(f"expected triplets, or files, folders and hub data sets, got {texts!r}")
    listed = [texts] if isinstance(texts, str | Path) else list(texts)
    rows = [one for one in listed if isinstance(one, Triplet)]
    sources = [one for one in listed if isinstance(one, str | Path)]
    if len(rows) < len(listed) and len(sources) < len(listed):
        other = next((one for one in listed if not isinstance(one, Triplet | str | Path)), sources[:1])
        raise DataError(f"expected triplets alone, or files, folders and hub data sets alone, got {other!r} among them")
    if not listed:
        raise DataError("no source of texts was given; expected a file, a folder or a hub data set")
    for number, row in enumerate(rows):
        if not isinstance(row.negatives, tuple | list):
            raise DataError(f"triplet {number}: negatives is a {type(row.negatives).__name__}, expected a tuple of texts")
        place = SourceRow(where=f"triplet {number}", number=number, values={})
        for column, text in zip(chain(("anchor", "positive"), repeat("a negative")), row.texts, strict=False):
            sound_text(place, column, text)
    for source in sources:
        rows += read_triplets(source, require_negative=require_negative, split=split)
    return rows


def read_triplets(source: str | Path, *, require_negative: bool = True, split: str = TRAIN) -> Iterator[Triplet]:
    """Yield the triplets of one source, streaming.

    The source is a file (JSON lines, CSV, TSV, plain or gzipped, Parquet or Arrow), a folder of such files in the order of
    their names, or the id of a hub data set: ``owner/name``, ``owner/name:configuration``, ``owner/name@revision``. A file is
    a data set of the name of its stem without split and shard, so that shards are one; a ``dataset`` column overrides it. Of a
    folder the files of one split are read, with one line on what is left out (``choose_files``); corpus, queries and qrels
    are no triplets. Rows in which a text is empty are passed over, and one line counts them.

    Args:
        source: Path or hub id.
        require_negative: Whether a row without negatives is an error (no such column) or incomplete (no such text).
        split: Which files of a folder, or splits of a hub data set, are read: with train never held-out ones, else those if
            there are any.

    Raises:
        DataError: Nothing is there, a file is empty or cannot be read, or a row does not fit; the message has file and line.
    """
    empty, first = 0, ""
    for name, dataset, rows in read_tables(source, split):
        seen = kept = 0
        for row in rows:
            triplets = triplets_of(row, dataset=dataset, require_negative=require_negative)
            yield from triplets
            seen += 1
            kept += bool(triplets)
            if not triplets:
                empty, first = empty + 1, first or row.where
        if not kept:
            raise DataError(f"{name}: all {seen} rows have an empty text; expected columns {_EXPECTED}")
    if empty:
        say(f"{source}: passed over {empty} rows with an empty text, the first at {first}")


def read_tables(source: str | Path, split: str = TRAIN) -> Iterator[tuple[str, str, Iterable[SourceRow]]]:
    """Yield each file's or hub data set's name for messages, its data set, and its rows; errors as ``read_triplets``."""
    path = Path(source).expanduser()
    if path.is_dir():
        ends: Counter[str] = Counter()
        for file in choose_files(path, split):
            yield str(file.path), file.dataset, _numbered_on(read_rows(file.path), ends, file.dataset)
    elif path.exists():
        yield str(path), dataset_name(path), read_rows(path)
    else:
        hub = HUB_DATASET.fullmatch(str(source))
        # A hub id, and no mistyped path: that has a known suffix or starts in an existing folder.
        if hub is None or suffix_of(path) in FORMATS or (path.parent.is_dir() and str(path.parent) != "."):
            raise DataError(f"{source}: no such file or folder{closest(path)}")
        yield hub[0], hub[1].rpartition("/")[2], read_hub(hub[0], split)


def _numbered_on(rows: Iterable[SourceRow], ends: Counter[str], dataset: str) -> Iterator[SourceRow]:
    """Number the rows of a shard on from those before it: the public E5 set tells two instructions by the number."""
    first = ends[dataset]
    for row in rows:
        ends[dataset] = first + row.number + 1
        yield replace(row, number=first + row.number) if first else row


def read_hub(source: str, split: str = TRAIN) -> Iterator[SourceRow]:
    """Yield the rows of a hub data set (``HUB_DATASET``), streamed through ``datasets``; if it cannot be read, a ``DataError``.

    Args:
        source: Its id.
        split: With train the split of that name, else as of a folder.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    repo, config, revision = HUB_DATASET.fullmatch(source).groups()  # type: ignore[union-attr]
    try:
        names = (
            [TRAIN]
            if split == TRAIN
            else _held_out(source, datasets.get_dataset_split_names(repo, config, revision=revision), split)
        )
        parts = (datasets.load_dataset(repo, config, split=name, revision=revision, streaming=True) for name in names)
        for number, values in enumerate(chain.from_iterable(parts)):
            yield SourceRow(f"{source}: row {number + 1}", number, values)
    except (OSError, ValueError, DatasetsError) as error:
        advice = "expected an existing file, a folder or a hub data set (owner/name)"
        raise DataError(f"cannot read {source}: {reason_of(error)}; {advice}") from error


def _held_out(source: str, names: Sequence[str], split: str) -> list[str]:
    """Return the splits of a hub data set to read for one that is not train, and say what is left out."""
    wanted = chosen_splits(source, map(split_told, names), split)
    chosen = [name for name in names if split_told(name) in wanted]
    if left := [name for name in names if name not in chosen]:
        say(f"{source}: the held-out splits are {', '.join(chosen)}; left out {', '.join(left)}")
    return chosen


def _columns_of(row: SourceRow, *, require_negative: bool) -> tuple[str, str, tuple[str, ...]]:
    """Return the columns of a row's anchor, positives and negatives; one that is missing is a ``DataError``."""
    anchor, positive, negative = _layout(frozenset(row.values))
    if anchor and positive and (negative or not require_negative):
        return anchor, positive, negative
    missing = "neg" if positive == "pos" else "negative"
    if not (anchor and positive):
        missing = "positive" if anchor else "anchor (or query)"
    found = ", ".join(sorted(map(str, row.values))) or "none"
    raise DataError(f"{row.where}: column {missing} is missing; found {found}; expected {_EXPECTED}")


@lru_cache(maxsize=256)
def _layout(columns: frozenset[str]) -> tuple[str, str, tuple[str, ...]]:
    """Return which columns of a file hold the anchor, the positives and the negatives; "" for what is missing."""
    anchor, positive = (next((name for name in names if name in columns), "") for names in (_ANCHORS, _POSITIVES))
    numbered = sorted((int(match[1]), name) for name in columns if (match := _NUMBERED.fullmatch(name)))
    named = [name for name in _NEGATIVES if name in columns]
    return anchor, positive, (*named, *(name for _, name in numbered))


def triplets_of(row: SourceRow, *, dataset: str, require_negative: bool) -> list[Triplet]:
    """Return the triplets of one row, one per positive; none where the anchor, the positive or a needed negative is empty.

    Its column ``dataset`` goes before the name given.

    Raises:
        DataError: A column is missing or holds something else than text; the message has the place.
    """
    anchor, positive, negative = _columns_of(row, require_negative=require_negative)
    query = _text(row, anchor, row.values[anchor])
    positives, negatives = _texts(row, (positive,)), _texts(row, negative)
    own, others = _scores(row, "pos_scores", positives), _scores(row, "neg_scores", negatives)
    kept = tuple(text for text in negatives if text)
    named, group = (sound_text(row, column, row.values.get(column) or "") for column in ("dataset", "group"))
    if not query or (require_negative and not kept):
        return []
    if any(positives) and ((others and not own) or (own and kept and not others)):
        raise DataError(f"{row.where}: only one of pos_scores and neg_scores is there; expected both or neither")
    of_kept = [score for score, text in zip(others, negatives, strict=False) if text]
    return [
        Triplet(
            anchor=query,
            positive=text,
            negatives=kept,
            dataset=named or dataset,
            line=row.number,
            scores=(own[place], *of_kept) if own else (),
            group=group,
        )
        for place, text in enumerate(positives)
        if text
    ]


def _text(row: SourceRow, column: str, value: Any) -> str:
    """Return a text, or the empty string when there is nothing but blanks in it; a passage has its title before its text."""
    if isinstance(value, Mapping):
        text = full_text(SourceRow(f"{row.where}: {column}", row.number, value))[0]
    else:
        text = sound_text(row, column, value)
    return text if text.strip() else ""


def _texts(row: SourceRow, columns: Iterable[str]) -> list[str]:
    texts: list[str] = []
    for column in columns:
        value = row.values[column]
        if isinstance(value, list):
            texts += [_text(row, column, "" if item is None else item) for item in value]
        else:
            # Tables with a varying number of texts fill up with nulls.
            texts.append("" if value is None and column != "positive" else _text(row, column, value))
    return texts


def _scores(row: SourceRow, column: str, texts: list[str]) -> list[float]:
    """Return a teacher's scores of these texts; none without a teacher."""
    values = row.values.get(column)
    if values is None or values == []:
        return []
    # An integer of JSON may be beyond what a float holds.
    if not isinstance(values, list) or not all(
        isinstance(one, int | float) and abs(one) <= sys.float_info.max for one in values
    ):
        raise DataError(f"{row.where}: {column} must be a list of numbers, all finite")
    if len(values) != len(texts):
        raise DataError(f"{row.where}: {column} has {len(values)} numbers for {len(texts)} texts")
    return [float(value) for value in values]
