"""Groups of triplets, over which the contrastive loss is measured: drawn, and as token rows, which every scorer reads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice

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


def distinct_rows(groups: Sequence[TokenGroup]) -> tuple[TokenRow, ...]:
    """Return the different rows of ``groups`` in order of appearance; equal texts are encoded once."""
    return tuple(distinct(row for group in groups for row in group.rows)[0])


def draw_groups(triplets: Sequence[Triplet], *, groups: int, size: int, seed: int, order: str) -> list[list[Triplet]]:
    """Return ``groups`` lists of ``size`` triplets.

    Args:
        triplets: All rows to draw from.
        groups: How many groups.
        size: Triplets in each.
        seed: Seed of the draw; not used with ``"file"``.
        order: ``"sampled"`` draws uniformly without replacement over all rows and cuts the draw into consecutive groups, so
            that data sets mix, as the L3Prune code does; ``"file"`` takes the first rows as they stand; ``"dataset"`` makes
            every group from one data set, as training batches are: rows are shuffled within their data set and cut, the
            ragged tail is left, and the groups are drawn from those.

    Raises:
        DataError: There are too few triplets.
    """
    if len(triplets) < groups * size:
        need = f"{groups} groups of {size} need {groups * size}"
        raise DataError(f"{len(triplets)} tuples, but {need}; give more texts, or lower groups or group size")
    generator = random.Random(seed)
    if order != "dataset":
        rows = generator.sample(triplets, groups * size) if order == "sampled" else triplets[: groups * size]
        return [list(rows[start : start + size]) for start in range(0, len(rows), size)]
    by_dataset: dict[str, list[Triplet]] = {}
    for triplet in triplets:
        by_dataset.setdefault(triplet.dataset, []).append(triplet)
    whole: list[list[Triplet]] = []
    for _, rows in sorted(by_dataset.items()):
        generator.shuffle(rows)
        whole += [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]
    if len(whole) < groups:
        have = f"{len(triplets)} tuples of {len(by_dataset)} data sets give {len(whole)} groups of {size} of one data set each"
        raise DataError(f"{have}, but {groups} are needed; give more texts, lower groups or group size, or mix data sets")
    return generator.sample(whole, groups)


def tokenise_groups(groups: Sequence[Sequence[Triplet]], text: PreparedText) -> list[TokenGroup]:
    """Tokenise groups of triplets, each text after its prompt, and mark what the encoder that ``prune`` writes will pool.

    A text without tokens is a ``DataError`` that names its data set.
    """
    settings, tokenised = text.settings, []
    for group in groups:
        pairs = []
        for triplet in group:
            query, document = text.before(triplet)
            pairs += [(query, triplet.anchor), *((document, one) for one in triplet.texts[1:])]
        try:
            if settings.pooling == PAPER_POOLING:
                rows = tokenise_text_alone(text.tokenizer, pairs, suffix=text.suffix, max_length=settings.max_length)
            else:
                rows = tokenise(text.tokenizer, pairs, max_length=settings.max_length, include_prompt=settings.include_prompt)
        except DataError as error:
            where = ", ".join(sorted({triplet.dataset or "texts" for triplet in group}))
            raise DataError(f"{where}: {error}") from error
        following = iter(rows)
        of_triplets = [tuple(islice(following, len(one.texts))) for one in group]
        queries, positives = (tuple(texts[place] for texts in of_triplets) for place in (0, 1))
        tokenised.append(TokenGroup(queries, positives, tuple(chain.from_iterable(texts[2:] for texts in of_triplets))))
    return tokenised
