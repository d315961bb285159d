"""Hard negatives by BM25: texts that share words with the query but belong to another one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from prune2vec.data.pairs import WORD, text_key
from prune2vec.data.triplet import Triplet
from prune2vec.errors import ConfigError, DataError
from prune2vec.progress import progress, say

if TYPE_CHECKING:
    import bm25s
    import numpy as np
    from numpy.typing import NDArray

_CANDIDATES = 10
# In a smaller group BM25 has no choice and takes unrelated texts; all groups together then have harder ones.
_MIN_POOL = 20
# Above this share of common words a text is rather a copy of the positive than a negative.
_NEAR_COPY = 0.8


def add_negatives(
    triplets: Sequence[Triplet], *, negatives: int = 1, candidates: int | None = None, seed: int = 42
) -> list[Triplet]:
    """Return the triplets with negatives drawn from the best BM25 matches of the anchor among the others' positives.

    Texts of the same group are searched, and all texts where the group has fewer than 20 or nothing fits. Never taken: the
    positive, a text of the same words, a near copy of it (over 80 % common words), or a text whose own query has the same
    words; and texts without a word of the anchor only where there are not enough others. Rows for which nothing is left are
    dropped, with a line on stderr. They are drawn from the best ``candidates`` (10, or as many as are drawn) so that not only the
    hardest, often a false one, is taken; negatives that a row has are replaced.

    Raises:
        ConfigError: A number is below 1.
        DataError: The texts are too few or too alike for any negative.
    """
    candidates = max(_CANDIDATES, negatives) if candidates is None else candidates
    if negatives < 1 or candidates < negatives:
        raise ConfigError(f"got {negatives} negatives of {candidates} candidates; expected at least 1, and as many candidates")
    result: dict[int, Triplet] = {}
    groups: dict[str, list[int]] = {}
    for row, triplet in enumerate(triplets):
        groups.setdefault(triplet.group, []).append(row)
    everything = _Pool(triplets)
    with progress("mining negatives", len(triplets)) as advance:
        for rows in groups.values():
            own = _Pool([triplets[row] for row in rows])
            pools = (own, everything) if len(own.texts) >= _MIN_POOL else (everything,)
            for row in rows:
                found = next(
                    (found for pool in pools if (found := pool.search(triplets[row], candidates, least=negatives))), []
                )
                if found:
                    generator = random.Random(f"{seed}:{row}")
                    drawn = sorted(generator.sample(range(len(found)), min(negatives, len(found))))
                    result[row] = replace(triplets[row], negatives=tuple(found[rank] for rank in drawn), scores=())
                advance(1)
    if not result:
        raise DataError(f"no negative found among {len(everything.texts)} different texts; give more, and more varied, texts")
    if len(result) < len(triplets):
        say(f"dropped {len(triplets) - len(result)} of {len(triplets)} pairs for which no negative was found")
    return [result[row] for row in sorted(result)]


class _Pool:
    """Texts to search, with an index that is built when first asked."""

    def __init__(self, triplets: Sequence[Triplet]) -> None:
        self.texts = list(dict.fromkeys(triplet.positive for triplet in triplets))
        self._words = [_words(text) for text in self.texts]
        self._keys = [text_key(text) for text in self.texts]
        self._queries: dict[str, set[str]] = {}
        for triplet in triplets:
            self._queries.setdefault(triplet.positive, set()).add(text_key(triplet.anchor))

    @cached_property
    def _vocabulary(self) -> dict[str, int]:
        from bm25s.stopwords import STOPWORDS_EN

        # The empty word keeps the index whole for texts of stop words only. Our own numbering, in order of appearance,
        # makes scores independent of Python's hash seed.
        words = dict.fromkeys(word for text in self._words for word in text if word not in STOPWORDS_EN)
        return {word: number for number, word in enumerate(["", *words])}

    @cached_property
    def _index(self) -> bm25s.BM25:
        import bm25s

        index = bm25s.BM25()
        index.index(([self._numbers(text) for text in self._words], self._vocabulary), show_progress=False)
        return index

    def _numbers(self, words: Sequence[str]) -> list[int]:
        known = self._vocabulary
        return [known[word] for word in words if word in known] or [known[""]]

    def search(self, triplet: Triplet, count: int, *, least: int) -> list[str]:
        """Return the ``count`` best matches of the anchor that may serve as negatives, best first; ``least`` whatever they share."""
        scores = self._index.get_scores_from_ids(self._numbers(_words(triplet.anchor)))
        query, positive, own = text_key(triplet.anchor), text_key(triplet.positive), set(_words(triplet.positive))
        found: list[str] = []
        # Looking at a few times as many as needed is nearly always enough; else all are sorted.
        for reach in (4 * count, len(self.texts)):
            found = []
            for number in best_places(scores, reach).tolist():
                # What shares no word with the anchor is no match, and first in order are always the same texts.
                if len(found) >= least and scores[number] <= 0:
                    return found
                text, words = self.texts[number], set(self._words[number])
                same = query in self._queries[text] or self._keys[number] in (positive, query)
                if not same and len(own & words) <= _NEAR_COPY * len(own | words):
                    found.append(text)
                if len(found) == count:
                    return found
        return found


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def best_places(scores: NDArray[np.floating[Any]], count: int) -> NDArray[np.int64]:
    """Return the places of the ``count`` highest scores, or of all if there are fewer; highest first, equal ones in order."""
    import numpy as np

    count = min(count, len(scores))
    # Not argpartition alone: which of several equal scores it takes depends on the processor.
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]
