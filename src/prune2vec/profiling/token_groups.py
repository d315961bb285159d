"""Groups of tuples as token rows: what every scorer reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

from torch import Tensor

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.models.prepared_text import PreparedText
from prune2vec.models.text_settings import PAPER_POOLING
from prune2vec.models.tokens import TokenRow, distinct, tokenise, tokenise_text_alone


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
    return tuple(distinct(row for group in groups for row in group.rows)[0])


def tokenise_groups(groups: Sequence[Sequence[Triplet]], text: PreparedText) -> list[TokenGroup]:
    """Tokenise groups of triplets, each text after its prompt, and mark what the encoder that ``prune`` writes will pool.

    Raises:
        DataError: A text has no tokens; the message names its data set and row.
    """
    settings, tokenised = text.settings, []
    for group in groups:
        pairs = []
        for triplet in group:
            query, document = text.before(triplet)
            pairs += [(query, triplet.anchor), (document, triplet.positive), *((document, one) for one in triplet.negatives)]
        try:
            if settings.pooling == PAPER_POOLING:
                rows = tokenise_text_alone(text.tokenizer, pairs, suffix=text.suffix, max_length=settings.max_length)
            else:
                rows = tokenise(text.tokenizer, pairs, max_length=settings.max_length, include_prompt=settings.include_prompt)
        except DataError as error:
            where = ", ".join(sorted({triplet.dataset or "texts" for triplet in group}))
            raise DataError(f"{where}: {error}") from error
        following = iter(rows)
        of_triplets = [list(islice(following, 2 + len(triplet.negatives))) for triplet in group]
        tokenised.append(
            TokenGroup(
                queries=tuple(of_triplet[0] for of_triplet in of_triplets),
                positives=tuple(of_triplet[1] for of_triplet in of_triplets),
                negatives=tuple(chain.from_iterable(of_triplet[2:] for of_triplet in of_triplets)),
            )
        )
    return tokenised
