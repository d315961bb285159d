"""Collecting (query, text) pairs: what is too short or already there is left out and counted."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prune2vec.data.triplet import Triplet
from prune2vec.progress import progress

MIN_WORDS = 12
MAX_CHARS = 2000
_MAX_ANCHOR_WORDS = 40
# Larger files are not text written by people.
_MAX_BYTES = 2 << 20
UNSPACED = "\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Letters of scripts that put no blank between words (Thai, Lao, kana, Han), as in a regular expression: each counts as a word."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{2,}}")
_LETTERS = re.compile(rf"[{UNSPACED}]|[^\W\d_{UNSPACED}]{{2,}}")
_KEY = re.compile(r"\w+")

PairsOf = Callable[[Path], Iterable[tuple[str, str, str, str]] | None]
"""Returns (query, text, group, name) of each pair in a file; None for a file that cannot be read."""


@dataclass(kw_only=True)
class MinedPairs:
    """Pairs found in some source, without negatives yet, that are worth training on.

    A pair is left out when the query has too few or too many words, when the text has fewer than 12 words of letters, or
    when either of them is there already (compared by words, in lower case).

    Attributes:
        source: What they were found in; its last part is the data set's name.
        min_anchor_words: Fewest words of a query.
        limit: Pairs after which no more are taken, or None.
        files: How many files were read.
        unreadable: How many could not be (broken, not UTF-8).
        rejected: How many pairs were left out, by reason.
        versions: Version of each group that has one.
    """

    source: str
    min_anchor_words: int
    limit: int | None = None
    files: int = 0
    unreadable: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    versions: dict[str, str] = field(default_factory=dict)
    _found: dict[str, Triplet] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _names: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._dataset = Path(self.source).absolute().name

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._found)

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and len(self) >= self.limit

    @property
    def names(self) -> tuple[str, ...]:
        """Where each pair stands, all different, sorted by group: ``numpy.linalg.norm``, ``guide.md#Installation``."""
        return tuple(sorted(self._found, key=lambda name: (self._found[name].group, name)))

    @property
    def triplets(self) -> tuple[Triplet, ...]:
        """Anchor, positive and group of each pair, in the order of ``names``."""
        return tuple(self._found[name] for name in self.names)

    def read(self, files: Sequence[Path], pairs_of: PairsOf, *, seed: int) -> None:
        """Take the pairs of files until the limit is reached; with one, files are shuffled, not to favour the first letters."""
        sizes = {path: path.stat().st_size for path in sorted(files) if path.is_file()}
        ordered = [path for path, size in sizes.items() if size <= _MAX_BYTES]
        if self.limit is not None:
            random.Random(seed).shuffle(ordered)
        with progress(f"reading {Path(self.source).name}", sum(sizes[path] for path in ordered)) as advance:
            for path in ordered:
                if self.full:
                    break
                pairs = pairs_of(path)
                self.files += 1
                self.unreadable += pairs is None
                for anchor, positive, group, name in pairs or ():
                    self.add(anchor, positive, group=group, name=name)
                advance(sizes[path])

    def add(self, anchor: str, positive: str, *, group: str, name: str) -> None:
        """Take a pair, or count why it was left out."""
        anchor, positive = " ".join(anchor.split()), clip(" ".join(positive.split()))
        keys, reason = {text_key(anchor), text_key(positive)}, ""
        if self.full:
            reason = "over the limit"
        elif not self.min_anchor_words <= len(anchor.split()) <= _MAX_ANCHOR_WORDS or not _LETTERS.search(anchor):
            reason = "query too short or too long"
        elif len(_LETTERS.findall(positive)) < MIN_WORDS:
            reason = "text too short"
        elif not self._seen.isdisjoint(keys):
            reason = "duplicate"
        if reason:
            self.rejected[reason] += 1
            return
        self._seen |= keys
        self._names[name] += 1
        # Getter and setter of a property, or two sections of one heading, share a name.
        unique = name if self._names[name] == 1 else f"{name}~{self._names[name]}"
        self._found[unique] = Triplet(anchor=anchor, positive=positive, dataset=self._dataset, group=group)


def text_key(text: str) -> str:
    """Return the words of a text in lower case: equal for texts that differ in punctuation and spacing only."""
    return " ".join(_KEY.findall(text.lower()))


def clip(text: str) -> str:
    """Return a text shortened to about 2,000 characters, at a blank."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS + 1].rpartition(" ")[0] or text[:MAX_CHARS]
