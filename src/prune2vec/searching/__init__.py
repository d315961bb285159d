"""Searching encoded vectors: a query to the nearest texts, on an index that is built from the Parquet parts once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.searching.hits import Hit as Hit
    from prune2vec.searching.hits import SearchResult as SearchResult
    from prune2vec.searching.index import VectorIndex as VectorIndex
    from prune2vec.searching.job import search_vectors as search_vectors
    from prune2vec.searching.settings import SearchSettings as SearchSettings
    from prune2vec.searching.shards import VectorFolder as VectorFolder

__all__ = ["Hit", "SearchResult", "SearchSettings", "VectorFolder", "VectorIndex", "search_vectors"]
__getattr__ = lazy_names(
    __name__,
    hits=("Hit", "SearchResult"),
    index=("VectorIndex",),
    job=("search_vectors",),
    settings=("SearchSettings",),
    shards=("VectorFolder",),
)
