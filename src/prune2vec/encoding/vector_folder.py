"""All vectors of a corpus, in one store or in several shards, and the nearest of them to queries.

No index is needed: every vector is compared, some thousand rows at a time, as they are read from the Parquet parts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prune2vec.data.bm25_negatives import best_places
from prune2vec.encoding.store import MANIFEST, Store, manifest_of, shard_counts, shard_folder
from prune2vec.errors import EncodingError
from prune2vec.progress import progress

# Numbers in float64 that are held at a time, of vectors and of scores: 64 MiB each.
_NUMBERS = 1 << 23
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class VectorPart:
    """A Parquet part of one of the shards.

    Attributes:
        store: The store that it is in.
        number: Its number there.
        begin: The number of its first row among the rows of all parts.
        corpus_rows: The rows of its texts in the corpus: shard i of n holds rows i, i + n, i + 2n, ...
    """

    store: Store
    number: int
    begin: int
    corpus_rows: range


@dataclass(frozen=True, kw_only=True)
class VectorFolder:
    """The vectors of one corpus, in one store or in several shards.

    Attributes:
        folder: What the user calls it.
        stores: Those that are there, by number of their shard.
        shards: How many there should be.
    """

    folder: Path
    stores: Mapping[int, Store]
    shards: int

    @classmethod
    def open(cls, folder: Path, *, partial: bool = False) -> Self:
        """Find all shards below a folder that ``encode`` wrote; with ``partial`` take what is there when rows or shards are missing.

        Raises:
            EncodingError: There are no vectors, shards do not belong together, or rows or shards are missing.
        """
        if manifest_of(folder).exists():
            store = Store.load(folder)
            shard, _, count = str(store.identity.get("settings", {}).get("shard", "0/1")).partition("/")
            found = cls(folder=folder, stores={int(shard): store}, shards=int(count))
        else:
            counts = shard_counts(folder)
            if not counts:
                raise EncodingError(f"{folder} holds no vectors (no {MANIFEST} and no shards); make some with prune2vec encode")
            folders = {shard: shard_folder(folder, shard, counts[0]) for shard in range(counts[0])}
            stores = {shard: Store.load(path) for shard, path in folders.items() if manifest_of(path).exists()}
            found = cls(folder=folder, stores=stores, shards=counts[0])
        for store in found.stores.values():
            first, kind = _kind(found.first), _kind(store)
            changed = [key for key in first if first[key] != kind.get(key)]
            if changed:
                raise EncodingError(
                    f"{store.folder} was made with another {' and '.join(changed)} than {found.first.folder}; "
                    "encode the shards anew into one folder"
                )
        if found.stores and not partial:
            found._check_whole()
        if not found.rows:
            raise EncodingError(f"{folder} holds no vectors yet; let prune2vec encode run on")
        return found

    def _check_whole(self) -> None:
        missing = [str(shard) for shard in range(self.shards) if shard not in self.stores]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            shards = f"shard{'s' * (len(missing) > 1)} {', '.join(missing[:_SHOWN])}{more}"
            raise EncodingError(
                f"{self.folder} lacks {shards} of {self.shards}; encode them, or search the others with --partial"
            )
        for store in self.stores.values():
            if not store.complete:
                raise EncodingError(
                    f"{store.folder} is not complete: {store.rows:,} rows are there; "
                    "run the same prune2vec encode again to finish it, or search these with --partial"
                )

    @property
    def first(self) -> Store:
        """The first store, whose encoder and precision are those of all.

        Of int8 other stores may have other ranges, set by another machine's vectors.
        """
        return next(iter(self.stores.values()))

    @property
    def rows(self) -> int:
        """Vectors in all parts."""
        return sum(store.rows for store in self.stores.values())

    @cached_property
    def parts(self) -> list[VectorPart]:
        """Every part, in the order in which rows are numbered here."""
        parts: list[VectorPart] = []
        begin = 0
        for shard, store in self.stores.items():
            start = shard
            for number, entry in enumerate(store.parts):
                rows = range(start, start + int(entry["rows"]) * self.shards, self.shards)
                parts.append(VectorPart(store=store, number=number, begin=begin, corpus_rows=rows))
                start, begin = rows.stop, begin + len(rows)
        return parts

    def part_of(self, row: int) -> VectorPart:
        """Return the part that a row is in."""
        return self.parts[bisect_right(self.parts, row, key=lambda part: part.begin) - 1]

    def corpus_row(self, row: int) -> int:
        """Return the number of a row's text in the corpus."""
        part = self.part_of(row)
        return part.corpus_rows[row - part.begin]

    def ids(self, rows: Iterable[int]) -> dict[int, str]:
        """Return the ids of some rows; only the parts that they are in are read."""
        names: dict[int, str] = {}
        for begin, inside in groupby(sorted(set(rows)), key=lambda row: self.part_of(row).begin):
            part = self.part_of(begin)
            own = part.store.read_ids(part.number)
            names |= {row: own[row - begin] for row in inside}
        return names

    def nearest(
        self, queries: NDArray[np.float32], k: int, *, unit: bool = False, candidates: int = 10
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return scores and numbers of the k rows nearest to each of (query, dim) queries, best first, both (query, at most k).

        The score is the inner product with the vector as it is stored; of equal scores the lower row comes first. Bits, as
        rows of 1 and -1 scaled to length 1, are found by their Hamming distance, of equal ones the larger inner product first, and
        ranked by the inner product.

        Args:
            queries: The queries, float32.
            k: Rows for each query.
            unit: Scale the vectors to length 1 first, so that for queries of length 1 the score is the cosine.
            candidates: For bits: how many times k rows are ranked by the query's floats.

        Raises:
            EncodingError: Queries have another dimension, or a part cannot be read.
        """
        dimension, bits = self.first.precision.dimension, self.first.precision.name == "binary"
        if queries.shape[1] != dimension:
            raise EncodingError(f"queries of {queries.shape[1]} dimensions, and the vectors have {dimension}")
        kept = min(k * candidates if bits else k, self.rows)
        # Of each query the best so far: by what they are found (keys), what they score, and which they are.
        keys = np.full((len(queries), kept), -np.inf, dtype=np.float32)
        scores, numbers = np.zeros_like(keys), np.zeros(keys.shape, dtype=np.int64)
        # In float64, rounded at the end: in float32 a matrix product gives equal rows other last digits at other places.
        exact = queries.astype(np.float64).T / (np.sqrt(dimension) if bits else 1)
        lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        nearer = np.where(queries > 0, 1.0, -1.0).T + exact / np.maximum(lengths, np.finfo(np.float64).tiny)
        step = max(1, _NUMBERS // max(len(queries), dimension))
        row = 0
        with progress("searching", self.rows) as advance:
            for part in self.parts:
                for stored in part.store.read_vectors(part.number, step):
                    vectors = part.store.precision.restore(stored)
                    vectors = (unit_rows(vectors) if unit and not bits else vectors).astype(np.float64)
                    products = (vectors @ exact).T.astype(np.float32)
                    # The inner product of signs is the dimension less twice the Hamming distance, of which many are equal: then the
                    # query's floats decide, by less than 1.
                    found = (vectors @ nearer).T.astype(np.float32) if bits else products
                    # A later row of equal score is not better.
                    better_than = found > keys[:, -1:]
                    for query in np.flatnonzero(better_than.any(axis=1)):
                        better = np.flatnonzero(better_than[query])
                        joined = np.concatenate([keys[query], found[query, better]])
                        best = best_places(joined, kept)
                        keys[query] = joined[best]
                        scores[query] = np.concatenate([scores[query], products[query, better]])[best]
                        numbers[query] = np.concatenate([numbers[query], row + better])[best]
                    row += len(stored)
                    advance(len(stored))
        order = np.lexsort((numbers, -scores), axis=1)[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(numbers, order, axis=1)


def unit_rows(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))


def _kind(store: Store) -> dict[str, Any]:
    settings = {key: value for key, value in store.identity.get("settings", {}).items() if key != "shard"}
    return {**store.identity, "settings": settings, "dimension": store.precision.dimension, "precision": store.precision.name}
