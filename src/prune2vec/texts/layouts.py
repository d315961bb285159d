"""From the columns of a row to triplets: named columns, numbered negatives, and FlagEmbedding's lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prune2vec.errors import DataError
from prune2vec.texts.formats.row import Row
from prune2vec.texts.triplet import Triplet

EXPECTED = "anchor (or query), positive, negative (or negative_1, negative_2, ...), or query, pos, neg with lists"
_NUMBERED = re.compile(r"negative_(\d+)")
_SCORES = ("pos_scores", "neg_scores")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a file hold the anchor, the positives and the negatives, and whether those are lists."""

    anchor: str
    positive: str
    negatives: tuple[str, ...]
    lists: bool


@lru_cache(maxsize=256)
def find_layout(columns: frozenset[str]) -> Layout | None:
    """Return how columns of these names are to be read, or None when anchor or positive is missing."""
    anchor = next((name for name in ("anchor", "query") if name in columns), "")
    lists = "pos" in columns and "positive" not in columns
    positive = "pos" if lists else "positive"
    if not anchor or positive not in columns:
        return None
    if lists:
        return Layout(anchor, positive, ("neg",) if "neg" in columns else (), True)
    numbered = sorted((int(match[1]), name) for name in columns if (match := _NUMBERED.fullmatch(name)))
    single = ("negative",) if "negative" in columns else ()
    return Layout(anchor, positive, single + tuple(name for _, name in numbered), False)


def triplets_of(row: Row, *, dataset: str, require_negative: bool) -> Iterator[Triplet]:
    """Yield the triplets of one row, one per positive; none where the anchor, the positive or a needed negative is empty.

    Args:
        row: Columns by name and their place.
        dataset: Name of the data set when the row has no ``dataset`` column.
        require_negative: Whether a row without negatives is incomplete.

    Raises:
        DataError: A column is missing or holds something else than text; the message has the place.
    """
    layout = find_layout(frozenset(row.values))
    if layout is None or (require_negative and not layout.negatives):
        raise DataError(_missing(row, layout))
    anchor = _text(row, layout.anchor, row.values[layout.anchor])
    positives = _texts(row, (layout.positive,), lists=layout.lists)
    negatives = _texts(row, layout.negatives, lists=layout.lists)
    dataset = _label(row, "dataset") or dataset
    group = _label(row, "group")
    of_positives, of_negatives = _scores(row, "pos_scores", len(positives)), _scores(row, "neg_scores", len(negatives))
    kept = [index for index, text in enumerate(negatives) if text]
    if not anchor or (require_negative and not kept):
        return
    for index, positive in enumerate(positives):
        if positive:
            yield Triplet(
                anchor=anchor,
                positive=positive,
                negatives=tuple(negatives[number] for number in kept),
                dataset=dataset,
                line=row.number,
                scores=_aligned(row, of_positives[index : index + 1], of_negatives, kept),
                group=group,
            )


def _missing(row: Row, layout: Layout | None) -> str:
    columns = set(row.values)
    if layout is not None:
        missing = "neg" if layout.lists else "negative"
    elif columns & {"anchor", "query"}:
        missing = "positive"
    else:
        missing = "anchor (or query)"
    found = ", ".join(sorted(map(str, columns))) or "none"
    return f"{row.where}: column {missing} is missing; found {found}; expected {EXPECTED}"


def _text(row: Row, column: str, value: Any) -> str:
    """Return a text, or the empty string when there is nothing but blanks in it."""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {column} is {_kind(value)}, expected a string")
    if not value.isascii():
        _check_encodable(row, column, value)
    return value if value.strip() else ""


def _check_encodable(row: Row, column: str, value: str) -> None:
    # JSON can spell half a surrogate pair, which no tokenizer accepts and no file can hold.
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        found = f"\\u{ord(value[error.start]):04x}"
        raise DataError(f"{row.where}: {column} holds half a character ({found} at {error.start}); repair the text") from error


def _texts(row: Row, columns: Iterable[str], *, lists: bool) -> list[str]:
    texts: list[str] = []
    for column in columns:
        value = row.values[column]
        if not lists:
            # Tables with a varying number of negatives fill up with nulls or blanks.
            empty = value is None and column.startswith("negative")
            texts.append("" if empty else _text(row, column, value))
            continue
        if not isinstance(value, list):
            raise DataError(f"{row.where}: {column} is {_kind(value)}, expected a list of strings")
        texts += [_text(row, column, "" if item is None else item) for item in value]
    return texts


def _label(row: Row, column: str) -> str:
    value = row.values.get(column) or ""
    if not isinstance(value, str):
        raise DataError(f"{row.where}: {column} is {_kind(value)}, expected a string")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _scores(row: Row, column: str, texts: int) -> list[float]:
    values = row.values.get(column)
    if values is None or values == []:
        return []
    if not isinstance(values, list) or not all(isinstance(value, int | float) for value in values):
        raise DataError(f"{row.where}: {column} must be a list of numbers")
    if len(values) != texts:
        raise DataError(f"{row.where}: {column} has {len(values)} numbers for {texts} texts")
    return [float(value) for value in values]


def _aligned(row: Row, positive: list[float], negatives: list[float], kept: list[int]) -> tuple[float, ...]:
    """Join the scores of one positive and of the negatives that were kept; empty without a teacher."""
    if not positive and not negatives:
        return ()
    if not positive or (kept and not negatives):
        raise DataError(f"{row.where}: only one of {' and '.join(_SCORES)} is there; expected both or neither")
    return (*positive, *(negatives[index] for index in kept))
