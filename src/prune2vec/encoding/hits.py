"""What a search found: for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from prune2vec.errors import shown

_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One text near a query.

    Attributes:
        rank: From 1.
        score: Similarity of the vectors: the cosine, or the inner product where the encoder compares by that.
        id: The text's id.
        row: Number of its row in the corpus, from 0.
        text: The text, where the corpus was given.
    """

    rank: int
    score: float
    id: str
    row: int
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The nearest texts of each query.

    Attributes:
        queries: The queries, as they were given.
        hits: The hits of each, best first.
        rows: How many vectors were searched.
    """

    queries: tuple[str, ...]
    hits: tuple[tuple[Hit, ...], ...]
    rows: int

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        found = [
            {"query": query, "hits": [asdict(hit) for hit in hits]} for query, hits in zip(self.queries, self.hits, strict=True)
        ]
        return {"rows": self.rows, "results": found}

    def render(self) -> str:
        """Return a table of the hits of each query."""
        return "\n\n".join(self._one(query, hits) for query, hits in zip(self.queries, self.hits, strict=True))

    def _one(self, query: str, hits: tuple[Hit, ...]) -> str:
        names = [shown(hit.id) for hit in hits]
        width = max(map(len, names), default=0)
        rows = zip(hits, names, strict=True)
        found = [
            f"{hit.rank:4d}  {hit.score:7.4f}  {name:<{width}}  {shown(hit.text or '', _WIDTH)}".rstrip() for hit, name in rows
        ]
        return "\n".join([shown(query), *found])
