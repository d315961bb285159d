"""Which rows each step will see: the trainer's own samplers, run ahead, so that a shortage shows before the first step."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate, islice
from typing import Any

from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer

from prune2vec.errors import DataError
from prune2vec.training.training_data import TrainingData


class BatchPlan:
    """The batches of a whole run, in order: which table, and which of its rows.

    Args:
        data: The tables.
        trainer: Its samplers choose the batches.
        steps: How many batches.

    Raises:
        DataError: A table holds too many equal texts to fill its batches without repeating one within a batch.
    """

    def __init__(self, data: TrainingData, trainer: SentenceTransformerTrainer, steps: int) -> None:
        self._data = data
        self._names = list(data.tables)
        self._starts = [0, *accumulate(len(table.rows) for table in data.tables.values())]
        self.batches = self._draw(trainer, steps)

    def counts(self) -> dict[str, int]:
        """Return how many batches each table gives."""
        found = Counter(self._table(batch) for batch in self.batches)
        return {name: found[name] for name in self._names}

    def largest(self, encoder: SentenceTransformer, *, padded: bool = True) -> list[Mapping[str, Any]]:
        """Return the tokenised columns of the largest batch, by characters.

        Args:
            encoder: Tokenises them.
            padded: Whether the longest texts decide, or all texts together.
        """
        size = _width if padded else _characters
        name, texts = max((self._texts(batch) for batch in self.batches), key=lambda found: size(found[1]))
        prompts = self._data.prompts[name]
        columns = zip(self._data.columns, zip(*texts, strict=True), strict=True)
        return [encoder.preprocess(list(column), prompt=prompts[key]) for key, column in columns]

    def _draw(self, trainer: SentenceTransformerTrainer, steps: int) -> list[list[int]]:
        sampler: Any = trainer.get_train_dataloader().batch_sampler
        drawn: list[list[int]] = []
        epoch = 0
        while len(drawn) < steps:
            sampler.set_epoch(epoch)
            wanted = min(len(sampler), steps - len(drawn))
            found = list(islice(sampler, wanted))
            if len(found) < wanted:
                raise self._shortage(found, trainer.args.train_batch_size)
            drawn += found
            epoch += 1
        return drawn

    def _shortage(self, found: list[list[int]], size: int) -> DataError:
        counts = Counter(self._table(batch) for batch in found)
        full = {name: len(table.rows) // size for name, table in self._data.tables.items()}
        worst = max(full, key=lambda name: (full[name] - counts[name]) / full[name])
        return DataError(
            f"{worst}: {len(self._data.tables[worst].rows)} rows give {counts[worst]} batches of {size} in which no text comes "
            f"twice, expected {full[worst]}; lower batch_size or remove repeated texts"
        )

    def _table(self, batch: list[int]) -> str:
        return self._names[bisect_right(self._starts, batch[0]) - 1]

    def _texts(self, batch: list[int]) -> tuple[str, list[tuple[str, ...]]]:
        name = self._table(batch)
        start = self._starts[self._names.index(name)]
        return name, [self._data.texts_of(self._data.tables[name].rows[index - start]) for index in batch]


def _characters(texts: list[tuple[str, ...]]) -> int:
    return sum(len(text) for row in texts for text in set(row))


def _width(texts: list[tuple[str, ...]]) -> int:
    """Characters of the longest anchor plus those of the longest document: the batch is padded to these."""
    return max(len(row[0]) for row in texts) + max(len(text) for row in texts for text in row[1:])
