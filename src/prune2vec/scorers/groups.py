"""Groups of tuples as token rows: what every scorer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from prune2vec.backbone.tokens import TokenRow, tokenise
from prune2vec.errors import DataError
from prune2vec.records.text_format import TextFormat
from prune2vec.texts import Instructions, Triplet


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


def tokenise_groups(
    tokenizer: object,
    groups: Sequence[Sequence[Triplet]],
    *,
    instructions: Instructions,
    text_format: TextFormat,
    max_length: int,
) -> list[TokenGroup]:
    """Tokenise groups of triplets, each text after its instruction.

    Raises:
        DataError: A text has no tokens; the message names its data set and row.
    """
    tokenised = []
    for group in groups:
        texts = [text for triplet in group for text in _texts(triplet, instructions)]
        try:
            rows = tokenise(tokenizer, texts, text_format=text_format, max_length=max_length)  # type: ignore[arg-type]
        except DataError as error:
            where = ", ".join(sorted({triplet.dataset or "texts" for triplet in group}))
            raise DataError(f"{where}: {error}") from error
        tokenised.append(_sorted_by_role(group, rows))
    return tokenised


def _texts(triplet: Triplet, instructions: Instructions) -> list[tuple[str, str]]:
    query, document = instructions.for_triplet(triplet)
    return [(query, triplet.anchor), (document, triplet.positive), *((document, text) for text in triplet.negatives)]


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
