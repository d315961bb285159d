"""All vectors of a corpus: the shards of a folder as one row of Parquet parts."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from prune2vec.encoding.precision import Precision
from prune2vec.encoding.store import MANIFEST, Store, mixed_shards, shard_counts, shard_folder
from prune2vec.errors import EncodingError


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
        """Find all shards below a folder.

        Args:
            folder: What ``encode`` wrote.
            partial: Take what is there when rows or shards are missing.

        Raises:
            EncodingError: There are no vectors, shards do not belong together, or rows or shards are missing.
        """
        stores, shards = _stores(folder)
        found = cls(folder=folder, stores=stores, shards=shards)
        found._check_alike()
        if not partial:
            found._check_whole()
        if not found.rows:
            raise EncodingError(f"{folder} holds no vectors yet; let prune2vec encode run on")
        return found

    @property
    def first(self) -> Store:
        """The first store, whose encoder and number format are those of all."""
        return next(iter(self.stores.values()))

    @property
    def precision(self) -> Precision:
        """How the first store's vectors are stored; others may have other ranges of int8, from another machine's vectors."""
        return self.first.precision

    @cached_property
    def parts(self) -> list[tuple[int, int, Mapping[str, Any]]]:
        """Every part as (shard, number in its store, manifest entry), in the order in which rows are numbered here."""
        return [(shard, number, part) for shard, store in self.stores.items() for number, part in enumerate(store.parts)]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(int(part["rows"]) for _, _, part in self.parts))

    @property
    def rows(self) -> int:
        """Vectors in all parts."""
        return self._ends[-1] if self._ends else 0

    @cached_property
    def corpus_rows(self) -> list[range]:
        """The rows of every part in the corpus: shard i of n holds rows i, i + n, i + 2n, ..."""
        ends = dict.fromkeys(self.stores, 0)
        rows = []
        for shard, _, part in self.parts:
            begin, ends[shard] = ends[shard], ends[shard] + int(part["rows"])
            rows.append(range(shard + begin * self.shards, shard + ends[shard] * self.shards, self.shards))
        return rows

    def ids(self, rows: Iterable[int]) -> dict[int, str]:
        """Return the ids of some rows; only the parts that they are in are read."""
        names: dict[int, str] = {}
        read: tuple[int, list[str]] = (-1, [])
        for row in sorted(set(rows)):
            part, inside = self._place(row)
            if read[0] != part:
                shard, number, _ = self.parts[part]
                read = (part, self.stores[shard].read_ids(number))
            names[row] = read[1][inside]
        return names

    def corpus_row(self, row: int) -> int:
        """Return the number of a row's text in the corpus."""
        part, inside = self._place(row)
        return self.corpus_rows[part][inside]

    def part_of(self, row: int) -> int:
        """Return the number of the part, of all parts, that a row is in."""
        return self._place(row)[0]

    def _place(self, row: int) -> tuple[int, int]:
        part = bisect_right(self._ends, row)
        return part, row - (self._ends[part - 1] if part else 0)

    def _check_alike(self) -> None:
        one = _kind(self.first)
        for store in self.stores.values():
            other = _kind(store)
            changed = [key for key in one if one[key] != other.get(key)]
            if changed:
                raise EncodingError(
                    f"{store.folder} was made with another {' and '.join(changed)} than {self.first.folder}; "
                    "encode the shards anew into one folder"
                )

    def _check_whole(self) -> None:
        missing = [str(shard) for shard in range(self.shards) if shard not in self.stores]
        if missing:
            raise EncodingError(
                f"{self.folder} lacks {_listed(missing)} of {self.shards}; encode them, or search the others with --partial"
            )
        open_ones = [store for store in self.stores.values() if not store.complete]
        if open_ones:
            raise EncodingError(
                f"{open_ones[0].folder} is not complete: {open_ones[0].rows:,} rows are there; "
                "run the same prune2vec encode again to finish it, or search these with --partial"
            )


def _stores(folder: Path) -> tuple[dict[int, Store], int]:
    if (folder / MANIFEST).exists():
        store = Store.load(folder)
        shard, shards = _shard_of(store)
        return {shard: store}, shards
    counts = shard_counts(folder)
    if not counts:
        raise EncodingError(f"{folder} holds no vectors (no {MANIFEST} and no shards); make some with prune2vec encode")
    if len(counts) > 1:
        raise mixed_shards(folder, counts)
    folders = {shard: shard_folder(folder, shard, counts[0]) for shard in range(counts[0])}
    there = {shard: Store.load(path) for shard, path in folders.items() if (path / MANIFEST).exists()}
    if not there:
        raise EncodingError(f"{folder} holds no vectors yet; let prune2vec encode run on")
    return there, counts[0]


def _shard_of(store: Store) -> tuple[int, int]:
    number, _, count = str(store.identity.get("settings", {}).get("shard", "0/1")).partition("/")
    return int(number), int(count)


def _kind(store: Store) -> dict[str, Any]:
    settings = {key: value for key, value in store.identity.get("settings", {}).items() if key != "shard"}
    return {**store.identity, "settings": settings, "dimension": store.precision.dimension, "precision": store.precision.name}


def _listed(numbers: list[str], most: int = 8) -> str:
    shown = ", ".join(numbers[:most]) + (f" and {len(numbers) - most} more" if len(numbers) > most else "")
    return f"shard{'s' * (len(numbers) > 1)} {shown}"
