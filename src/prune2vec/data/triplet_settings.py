"""How triplets are made from texts that the user has."""

from __future__ import annotations

from pydantic import Field

from prune2vec.settings import Seed, Settings


class TripletSettings(Settings):
    """How many pairs are made of which texts, with how many negatives, and how many of them are held out."""

    packages: tuple[str, ...] | None = None
    """Only the docstrings of these packages; default: of all that are installed."""
    max_pairs: int | None = Field(default=None, ge=1, le=10**9)
    """At most so many (query, text) pairs."""
    negatives: int = Field(default=1, ge=0, le=10**3)
    """Hard negatives for each pair; 0 leaves them out."""
    dev_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Largest share of the pairs to hold out, by whole packages or files."""
    seed: Seed = 42
    """Seed of the split and of the draws."""
