"""The batches that are planned are those that are trained on: one table each, and no text twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from prune2vec.data.triplet import Triplet
from prune2vec.errors import DataError
from prune2vec.training.batch_plan import BatchPlan
from prune2vec.training.collate import NotingCollator
from prune2vec.training.fit import TrainingJob, make_trainer
from prune2vec.training.objective import build_loss
from prune2vec.training.train import prepare
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import rows


def planned(small: Path, tmp_path: Path, data: list[Triplet], **settings: Any) -> tuple[BatchPlan, TrainingJob]:
    chosen = TrainSettings(dtype="float32", device="cpu", batch_size=8, **settings)
    encoder, job = prepare(small, data, tmp_path / "encoder", chosen)
    collator = NotingCollator.of(encoder, job.data.prompts)
    trainer = make_trainer(job, encoder, build_loss(encoder, chosen), collator)
    return BatchPlan(job.data, trainer, chosen.steps), job


def test_one_table_a_batch_and_no_text_twice(small: Path, tmp_path: Path) -> None:
    anchors = [
        Triplet(anchor=f"a{n % 20}", positive=f"p{n}", negatives=(f"p{(n + 1) % 48}",), dataset="same") for n in range(48)
    ]
    plan, job = planned(small, tmp_path, [*anchors, *rows(24, "two")], steps=20)
    everything = [row for table in job.data.tables.values() for row in table.rows]
    for batch in plan.batches:
        found = [everything[index] for index in batch]
        assert len(found) == 8
        assert len({row.dataset for row in found}) == 1
        texts = Counter(text for row in found for text in set(row.texts))
        assert max(texts.values()) == 1
    # Two epochs of 6 + 3 batches, and two more.
    assert Counter(everything[batch[0]].dataset for batch in plan.batches[:9]) == {"same": 6, "two": 3}
    assert plan.batches[:9] != plan.batches[9:18]
    assert plan.counts() == Counter(everything[batch[0]].dataset for batch in plan.batches)


def test_repeated_texts_that_leave_no_batch_are_an_error(small: Path, tmp_path: Path) -> None:
    few = [Triplet(anchor=f"a{n % 7}", positive=f"p{n}", negatives=(f"n{n}",), dataset="few") for n in range(40)]
    with pytest.raises(DataError, match=r"few: 40 rows give 0 batches of 8 .*, expected 5; lower batch_size"):
        planned(small, tmp_path, [*rows(24, "two"), *few], steps=8)


def test_largest_batch_is_the_one_with_the_longest_texts(small: Path, tmp_path: Path) -> None:
    long = [Triplet(anchor="q" * 40, positive=f"a long one {n} " * 3, negatives=(f"n {n}",), dataset="two") for n in range(1)]
    plan, job = planned(small, tmp_path, [*rows(24, "one"), *rows(23, "two"), *long], steps=6)
    encoder, _ = prepare(small, rows(24), tmp_path / "other", job.settings)
    columns = plan.largest(encoder)
    widths = [column["input_ids"].shape for column in columns]
    assert len(widths) == 3
    assert widths[1] == (8, len(encoder.tokenizer(long[0].positive)["input_ids"]))


def test_rows_may_have_different_numbers_of_negatives(small: Path, tmp_path: Path) -> None:
    uneven = [*rows(8, "one", negatives=1), *rows(8, "one", negatives=3, start=8)]
    plan, job = planned(small, tmp_path, uneven, steps=2, hard_negatives=2)
    encoder, _ = prepare(small, uneven, tmp_path / "other", job.settings)
    assert [len(column["input_ids"]) for column in plan.largest(encoder)] == [8] * 4
