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
_MAX_BYTES = 2 << 20
_WORD = re.compile(r"[^\W\d_]{2,}")
_KEY = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class MinedPairs:
    """Pairs found in some source, without negatives yet.

    Attributes:
        source: What they were found in.
        triplets: Anchor, positive and group of each, sorted by name.
        names: Where each stands: ``numpy.linalg.norm``, ``guide.md#Installation``; all different.
        files: How many files were read.
        unreadable: How many could not be (broken, not UTF-8, over 2 MB).
        rejected: How many pairs were left out, by reason.
        versions: Version of each group that has one.
    """

    source: str
    triplets: tuple[Triplet, ...]
    names: tuple[str, ...]
    files: int = 0
    unreadable: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.triplets)


def collect_pairs(
    files: Sequence[Path],
    collector: PairCollector,
    pairs_of: Callable[[Path], Iterable[tuple[str, str, str, str]] | None],
    *,
    source: str,
    seed: int,
) -> MinedPairs:
    """Read files until the collector is full, and return all that it has.

    Args:
        files: What may be read; files over 2 MB are not text written by people, and are passed over.
        collector: Takes the pairs. Where it has a limit, files are shuffled, which would else favour the first letters.
        pairs_of: Returns (query, text, group, name) of each pair in a file; None for a file that cannot be read.
        source: What the files are of.
        seed: Seed of the shuffle.
    """
    sizes = {path: path.stat().st_size for path in sorted(files) if path.is_file()}
    ordered = [path for path, size in sizes.items() if size <= _MAX_BYTES]
    if collector.limit is not None:
        random.Random(seed).shuffle(ordered)
    read = unreadable = 0
    with progress(f"reading {Path(source).name}", sum(sizes[path] for path in ordered)) as advance:
        for path in ordered:
            if collector.full:
                break
            read += 1
            pairs = pairs_of(path)
            unreadable += pairs is None
            for anchor, positive, group, name in pairs or ():
                collector.add(anchor, positive, group=group, name=name)
            advance(sizes[path])
    names, triplets = collector.sorted()
    return MinedPairs(
        source=source,
        triplets=triplets,
        names=names,
        files=read,
        unreadable=unreadable,
        rejected=dict(sorted(collector.rejected.items())),
    )


class PairCollector:
    """Takes pairs one after the other and keeps those that are worth training on.

    A pair is left out when the query has too few or too many words, when the text has fewer than 12 words of letters, or
    when either of them is there already (compared by words, in lower case).

    Args:
        dataset: Data set name of all pairs.
        min_anchor_words: Fewest words of a query.
        limit: Pairs after which the collector is full, or None.
    """

    def __init__(self, dataset: str, *, min_anchor_words: int, limit: int | None = None) -> None:
        self._dataset = dataset
        self._min_anchor_words = min_anchor_words
        self.limit = limit
        self._found: dict[str, Triplet] = {}
        self._seen: set[str] = set()
        self._names: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and len(self._found) >= self.limit

    def add(self, anchor: str, positive: str, *, group: str, name: str) -> None:
        """Take a pair, or count why it was left out."""
        anchor, positive = " ".join(anchor.split()), clip(" ".join(positive.split()))
        keys, reason = {text_key(anchor), text_key(positive)}, ""
        if self.full:
            reason = "over the limit"
        elif not self._min_anchor_words <= len(anchor.split()) <= _MAX_ANCHOR_WORDS or not _WORD.search(anchor):
            reason = "query too short or too long"
        elif len(_WORD.findall(positive)) < MIN_WORDS:
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

    def sorted(self) -> tuple[tuple[str, ...], tuple[Triplet, ...]]:
        """Return names and triplets, sorted by group and name."""
        order = sorted(self._found, key=lambda name: (self._found[name].group, name))
        return tuple(order), tuple(self._found[name] for name in order)


def text_key(text: str) -> str:
    """Return the words of a text in lower case: equal for texts that differ in punctuation and spacing only."""
    return " ".join(_KEY.findall(text.lower()))


def clip(text: str) -> str:
    """Return a text shortened to about 2,000 characters, at a blank."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS + 1].rpartition(" ")[0] or text[:MAX_CHARS]
