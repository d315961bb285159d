"""From the columns of a row to triplets: named columns, each with a text or a list of texts, and numbered negatives."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from prune2vec.data.documents import full_text, sound_text
from prune2vec.data.rows import SourceRow
from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError

EXPECTED = "anchor (or query), positive, negative (or negative_1, negative_2, ...), each a text or a list of texts"
_ANCHORS = ("anchor", "query")
_POSITIVES = ("positive", "positives", "pos", "positive_passages")
_NEGATIVES = ("negative", "negatives", "neg", "negative_passages")
_NUMBERED = re.compile(r"neg(?:ative)?s?[-_ ]?(\d+)")
_SCORES = ("pos_scores", "neg_scores")


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns of a file hold the anchor, the positives and the negatives."""

    anchor: str
    positive: str
    negatives: tuple[str, ...]


@lru_cache(maxsize=256)
def find_layout(columns: frozenset[str]) -> Layout | None:
    """Return how columns of these names are to be read, or None when anchor or positive is missing."""
    anchor, positive = (next((name for name in names if name in columns), "") for names in (_ANCHORS, _POSITIVES))
    if not anchor or not positive:
        return None
    numbered = sorted((int(match[1]), name) for name in columns if (match := _NUMBERED.fullmatch(name)))
    named = [name for name in _NEGATIVES if name in columns]
    return Layout(anchor, positive, (*named, *(name for _, name in numbered)))


def triplets_of(row: SourceRow, *, dataset: str, require_negative: bool) -> Iterator[Triplet]:
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
        missing = "positive" if any(name in row.values for name in _ANCHORS) else "anchor (or query)"
        if layout is not None:
            missing = "neg" if layout.positive == "pos" else "negative"
        found = ", ".join(sorted(map(str, row.values))) or "none"
        raise DataError(f"{row.where}: column {missing} is missing; found {found}; expected {EXPECTED}")
    anchor = _text(row, layout.anchor, row.values[layout.anchor])
    positives = _texts(row, (layout.positive,))
    negatives = _texts(row, layout.negatives)
    of_positives, of_negatives = _scores(row, "pos_scores", len(positives)), _scores(row, "neg_scores", len(negatives))
    kept = [index for index, text in enumerate(negatives) if text]
    labels = {}
    for column in ("dataset", "group"):
        labels[column] = sound_text(row, column, row.values.get(column) or "")
    if not anchor or (require_negative and not kept):
        return
    for index, positive in enumerate(positives):
        if positive:
            yield Triplet(
                anchor=anchor,
                positive=positive,
                negatives=tuple(negatives[number] for number in kept),
                dataset=labels["dataset"] or dataset,
                line=row.number,
                scores=_aligned(row, of_positives[index : index + 1], of_negatives, kept),
                group=labels["group"],
            )


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
            empty = value is None and column != "positive"
            texts.append("" if empty else _text(row, column, value))
    return texts


def _scores(row: SourceRow, column: str, texts: int) -> list[float]:
    values = row.values.get(column)
    if values is None or values == []:
        return []
    # An integer of JSON may be beyond what a float holds.
    if not isinstance(values, list) or not all(
        isinstance(one, int | float) and abs(one) <= sys.float_info.max for one in values
    ):
        raise DataError(f"{row.where}: {column} must be a list of numbers, all finite")
    if len(values) != texts:
        raise DataError(f"{row.where}: {column} has {len(values)} numbers for {texts} texts")
    return [float(value) for value in values]


def _aligned(row: SourceRow, positive: list[float], negatives: list[float], kept: list[int]) -> tuple[float, ...]:
    """Join the scores of one positive and of the negatives that were kept; empty without a teacher."""
    if not positive and not negatives:
        return ()
    if not positive or (kept and not negatives):
        raise DataError(f"{row.where}: only one of {' and '.join(_SCORES)} is there; expected both or neither")
    return (*positive, *(negatives[index] for index in kept))
