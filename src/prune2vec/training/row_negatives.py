"""Which of a row's hard negatives are trained on, and the teacher scores that go with them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.training.train_settings import TrainSettings


def choose_negatives(row: Triplet, settings: TrainSettings) -> list[int]:
    """Return the numbers of ``hard_negatives`` of a row's negatives; all come equally often where there are too few.

    A draw depends on the seed and the row alone, not on its place, so that a resumed run trains on the same texts.
    """
    count, there = settings.hard_negatives, len(row.negatives)
    if settings.negative_sampling == "first" or not count:
        return [number % there for number in range(count)]
    draw = random.Random(f"{settings.seed}\n{row.anchor}\n{row.positive}")
    return [*range(there)] * (count // there) + draw.sample(range(there), count % there)


def check_rows(rows: Sequence[Triplet], settings: TrainSettings) -> None:
    """Refuse rows that lack what the settings want of them.

    Raises:
        DataError: A row has no hard negative, or, with ``distil`` ``"data"``, no teacher score for each of its documents.
    """
    for row in rows:
        if settings.hard_negatives and not row.negatives:
            raise DataError(f"{_place(row)} has no hard negative; add one to each row or set hard_negatives to 0")
        if settings.distil == "data" and not _is_scored(row):
            found = f"{len(row.scores)} teacher scores for {1 + len(row.negatives)} documents"
            if len(row.scores) == 1 + len(row.negatives):
                found = "a teacher score that is not finite"
            raise DataError(
                f"{_place(row)} has {found}; give pos_scores and neg_scores (prune2vec mine negatives --score writes "
                "them), or set distil to none"
            )


def chosen_scores(row: Triplet, chosen: Sequence[int]) -> list[float]:
    """Return the teacher's scores of the positive and of the chosen negatives, in the order of the columns."""
    return [row.scores[0], *(row.scores[1 + number] for number in chosen)]


def _is_scored(row: Triplet) -> bool:
    return len(row.scores) == 1 + len(row.negatives) and all(map(math.isfinite, row.scores))


def _place(row: Triplet) -> str:
    return f"row {row.line + 1} of {row.dataset or 'the data'}"
