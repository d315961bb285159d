"""Groups of tuples as token rows: what every scorer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.models.prepared_text import PreparedText
from prune2vec.models.text_settings import PAPER_POOLING
from prune2vec.models.tokens import TokenRow, tokenise, tokenise_text_alone


@dataclass(frozen=True)
class TokenGroup:
    """One group of tuples: queries, positives and all hard negatives."""

    queries: tuple[TokenRow, ...]
    positives: tuple[TokenRow, ...]
    negatives: tuple[TokenRow, ...]

    @property
    def rows(self) -> tuple[TokenRow, ...]:
        """All rows: queries, then positives, then negatives."""
        return self.queries + self.positives + self.negatives

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split the vectors of ``rows`` (row, dim) into those of queries, positives and negatives."""
        first, second = len(self.queries), len(self.queries) + len(self.positives)
        return vectors[:first], vectors[first:second], vectors[second:]


def distinct_rows(groups: Sequence[TokenGroup]) -> tuple[TokenRow, ...]:
    """Return the different rows of ``groups`` in order of appearance; equal texts are encoded once."""
    return tuple(dict.fromkeys(row for group in groups for row in group.rows))


def token_count(groups: Sequence[TokenGroup]) -> int:
    """Return the tokens of the distinct rows of all groups."""
    return sum(len(row.ids) for row in distinct_rows(groups))


def tokenise_groups(groups: Sequence[Sequence[Triplet]], text: PreparedText) -> list[TokenGroup]:
    """Tokenise groups of triplets, each text after its prompt, and mark what the encoder that ``prune`` writes will pool.

    Raises:
        DataError: A text has no tokens; the message names its data set and row.
    """
    tokenised = []
    for group in groups:
        texts = [pair for triplet in group for pair in _texts(triplet, text)]
        try:
            rows = _rows(texts, text)
        except DataError as error:
            where = ", ".join(sorted({triplet.dataset or "texts" for triplet in group}))
            raise DataError(f"{where}: {error}") from error
        tokenised.append(_sorted_by_role(group, rows))
    return tokenised


def _rows(texts: Sequence[tuple[str, str]], text: PreparedText) -> list[TokenRow]:
    settings = text.settings
    if settings.pooling == PAPER_POOLING:
        return tokenise_text_alone(text.tokenizer, texts, suffix=text.suffix, max_length=settings.max_length)
    return tokenise(text.tokenizer, texts, max_length=settings.max_length, include_prompt=settings.include_prompt)


def _texts(triplet: Triplet, text: PreparedText) -> list[tuple[str, str]]:
    query, document = text.before(triplet)
    return [(query, triplet.anchor), (document, triplet.positive), *((document, one) for one in triplet.negatives)]


def _sorted_by_role(group: Sequence[Triplet], rows: Sequence[TokenRow]) -> TokenGroup:
    queries: list[TokenRow] = []
    positives: list[TokenRow] = []
    negatives: list[TokenRow] = []
    begin = 0
    for triplet in group:
        end = begin + 2 + len(triplet.negatives)
        queries.append(rows[begin])
        positives.append(rows[begin + 1])
        negatives.extend(rows[begin + 2 : end])
        begin = end
    return TokenGroup(tuple(queries), tuple(positives), tuple(negatives))
