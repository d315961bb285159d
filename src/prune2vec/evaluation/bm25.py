"""BM25 on the same queries and documents: the row that every encoder has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Bm25:
    """An index over documents (Lucene's BM25, k1 1.5, b 0.75, English stop words, no stemming)."""

    def __init__(self, documents: Sequence[str]) -> None:
        import bm25s

        self._index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        self._size = len(documents)
        tokens = bm25s.tokenize(list(documents), stopwords="english", show_progress=False, return_ids=False)
        self._empty = not any(tokens)
        if not self._empty:
            self._index.index(tokens, show_progress=False)

    def describe(self) -> dict[str, Any]:
        """Return the parameters, to be stored beside the scores."""
        index = self._index
        return {"method": index.method, "k1": index.k1, "b": index.b, "stopwords": "english", "stemmer": None}

    def scores(self, queries: Sequence[str]) -> Tensor:
        """Return the scores, (queries, documents); ``-inf`` where no word of the query is in the document."""
        import bm25s

        rows = bm25s.tokenize(list(queries), stopwords="english", show_progress=False, return_ids=False)
        none = np.zeros(self._size, dtype=np.float32)
        found = [self._index.get_scores(words) if words and not self._empty else none for words in rows]
        scores = torch.from_numpy(np.stack(found))
        return scores.masked_fill(scores <= 0, -math.inf)
