"""FAISS indexes for every way in which vectors are stored, so that none takes more bytes than the vectors themselves.

The inner product with int8 codes c needs no dequantised copy: with value = c * step + zero in every dimension,
q . value = (q * step) . c + q . zero. Bits are found by Hamming distance and ranked by the query's floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.encoding.precision import Precision
from prune2vec.errors import import_extra

_NEIGHBOURS = 32
_CONSTRUCTION = 200
_WALK = 128

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, kw_only=True)
class IndexForm:
    """Which FAISS index holds vectors of a precision, and what a score means there.

    Attributes:
        precision: How the vectors are stored.
        graph: A graph of neighbours (HNSW) in place of a comparison with every vector.
        unit: Scale vectors to length 1 first, so that the inner product is the cosine.
        candidates: For bits: how many times k rows are ranked by the query's floats.
    """

    precision: Precision
    graph: bool = False
    unit: bool = False
    candidates: int = 10

    @property
    def name(self) -> str:
        """A name that is another one when the same vectors give another index."""
        return f"{'hnsw' if self.graph else 'exact'}-{self.precision.name}{'-unit' if self._scales else ''}"

    @property
    def _is_binary(self) -> bool:
        return self.precision.name == "binary"

    @property
    def _scales(self) -> bool:
        # Rows of +1 and -1 are all of one length.
        return self.unit and not self._is_binary

    @property
    def _takes_codes(self) -> bool:
        return self.precision.name == "int8" and not self.graph and not self._scales

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one vector in the index."""
        size = {"float32": 4, "float16": 2, "int8": 1 if self._takes_codes else 2, "binary": 1}[self.precision.name]
        return size * self.precision.width + (8 * _NEIGHBOURS if self.graph else 0)

    def empty(self) -> Any:
        """Return an index without rows."""
        faiss, dimension = import_extra("faiss"), self.precision.dimension
        if self._is_binary:
            return self._tuned(
                faiss.IndexBinaryHNSW(dimension, _NEIGHBOURS) if self.graph else faiss.IndexBinaryFlat(dimension)
            )
        product = faiss.METRIC_INNER_PRODUCT
        if self.precision.name == "float32":
            flat = faiss.IndexFlatIP(dimension)
            return self._tuned(faiss.IndexHNSWFlat(dimension, _NEIGHBOURS, product)) if self.graph else flat
        half, direct = faiss.ScalarQuantizer.QT_fp16, faiss.ScalarQuantizer.QT_8bit_direct_signed
        if self.graph:
            index = self._tuned(faiss.IndexHNSWSQ(dimension, half, _NEIGHBOURS, product))
            index.is_trained = True
            return index
        return faiss.IndexScalarQuantizer(dimension, direct if self._takes_codes else half, product)

    def _tuned(self, index: Any) -> Any:
        if self.graph:
            index.hnsw.efConstruction = _CONSTRUCTION
        return index

    def add(self, index: Any, stored: NDArray[Any]) -> None:
        """Add (row, width) vectors as they are stored."""
        if self._is_binary:
            index.add(np.ascontiguousarray(stored))
        elif self._takes_codes:
            index.add(stored.astype(np.float32))
        else:
            vectors = self.precision.restore(stored)
            index.add(np.ascontiguousarray(unit_rows(vectors) if self._scales else vectors))

    def search(self, index: Any, queries: NDArray[np.float32], k: int) -> Found:
        """Return scores and row numbers of the k best rows of an index, both (query, k); row -1 where there are fewer.

        Of rows with equal scores the lower come first, at the k-th place too (without a graph, which finds what it finds).

        Args:
            index: From ``empty``, with rows.
            queries: (query, dim) float32, of length 1 where scores are cosines.
            k: Rows for each query.
        """
        if self.graph:
            index.hnsw.efSearch = max(_WALK, 2 * k * (self.candidates if self._is_binary else 1))
        if self._is_binary:
            return self._by_bits(index, queries, k)
        shift: Any = 0.0
        if self._takes_codes:
            step, zero = self.precision.steps()
            shift = (queries @ zero)[:, None]
            queries = queries * step
        search = _found if self.graph else _nearest
        scores, rows = search(index, np.ascontiguousarray(queries, dtype=np.float32), k)
        return scores + shift, rows

    def _by_bits(self, index: Any, queries: NDArray[np.float32], k: int) -> Found:
        _, rows = _found(index, np.packbits(queries > 0, axis=1), k * self.candidates)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        for query, near in enumerate(rows):
            found = near >= 0
            codes = np.stack([index.reconstruct(int(row)) for row in near[found]])
            # Summed row by row: in a matrix product equal rows may differ in the last digit, and would not be in order.
            products = (self.precision.restore(codes) * queries[query]).sum(axis=1)
            scores[query, found] = products / np.sqrt(self.precision.dimension)
        return best(scores, rows, k)


def _found(index: Any, queries: NDArray[Any], k: int) -> Found:
    scores, rows = index.search(queries, min(k, index.ntotal))
    return scores, rows


def _nearest(index: Any, queries: NDArray[np.float32], k: int) -> Found:
    """Return the k nearest rows; of those as near as the k-th the lower ones, where FAISS takes any."""
    scores, rows = _found(index, queries, k + 1)
    near, places = best(scores, rows, k)
    if scores.shape[1] > k:
        for query in np.flatnonzero(scores[:, -1] >= near[:, -1]):
            # One at a time: a text that a corpus holds many times over takes as many rows.
            near[query], places[query] = _with_all_equal(index, queries[query : query + 1], k)
    return near, places


def _with_all_equal(index: Any, query: NDArray[np.float32], k: int) -> Found:
    """Return the k nearest rows of one query, (1, k), chosen among all that are as near as the k-th."""
    count = k + 1
    while True:
        count = min(2 * count, index.ntotal)
        scores, rows = _found(index, query, count)
        near, places = best(scores, rows, k)
        if count == index.ntotal or scores[0, -1] < near[0, -1]:
            return near, places


def best(scores: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Found:
    """Return the k best of each line, best first; of equal scores the lower row first."""
    scores = np.where(rows < 0, -np.inf, scores).astype(np.float32)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))
