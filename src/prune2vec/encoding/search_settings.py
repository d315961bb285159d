"""Settings of a search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prune2vec.settings import Settings


class SearchSettings(Settings):
    """How a query becomes a vector, and which index finds its neighbours."""

    prompt: str = "query"
    """Name of the encoder's prompt that stands before every query: query, document or another of its prompts; or none."""
    index: Literal["exact", "hnsw"] = "exact"
    """exact compares with every vector; hnsw walks a graph: slow to build, fast for millions of vectors, may miss some hits."""
    segment_mb: int = Field(default=1024, ge=1, le=2**20)
    """Size of one index file in MiB; vectors that need more are held in several, searched one after the other."""
    candidates: int = Field(default=10, ge=1, le=10**6)
    """For binary vectors: so many times k rows are found by their bits, then ranked with the query's own floats."""
    partial: bool = False
    """Search what is there of an encoding that is not finished, or that lacks shards."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the forward pass of the query."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps: for the encoder; the index is searched on the CPU."""
