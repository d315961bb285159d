"""Tables by data set and instruction, the columns and hard negatives the trainer gets, and the batches they give."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prune2vec.data.instructions import E5_DATASETS, Instructions
from prune2vec.data.triplet import Triplet
from prune2vec.errors import CheckpointError, DataError
from prune2vec.models.text_settings import PromptTemplate
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.fit import TrainingJob, make_trainer
from prune2vec.training.objective import build_loss
from prune2vec.training.train import prepare
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import (
    BatchStats,
    NotingCollator,
    Prompting,
    by_prompt,
    check_rows,
    choose_negatives,
    largest_batch,
    plan_batches,
    trained_text,
    training_data,
)
from tests.training.encoders import rows

PLAIN = Prompting(instructions=None, text_format=PromptTemplate(), saved=("", ""))


def prompting(instruction: str, symmetric: str | None = None, **text_format: str) -> Prompting:
    return Prompting(
        instructions=Instructions.parse(instruction, symmetric), text_format=PromptTemplate(**text_format), saved=("old: ", "")
    )


def test_even_and_odd_instructions_become_two_tables() -> None:
    tables = by_prompt(rows(6, "allnli"), prompting("e5", separator="; "))
    record = E5_DATASETS["allnli"]
    assert list(tables) == ["allnli", "allnli#2"]
    assert [row.line for row in tables["allnli"].rows] == [0, 2, 4]
    assert (tables["allnli"].query_prompt, tables["allnli"].document_prompt) == (f"{record.even}; ", "")
    assert tables["allnli#2"].query_prompt == tables["allnli#2"].document_prompt == f"{record.odd}; "


def test_prompts_are_wrapped_and_separated() -> None:
    found = prompting("Find it", "both", prefix="<|user|>", separator=" - ").before(rows(1)[0])
    assert found == ("<|user|>Find it - ", "<|user|>Find it - ")
    assert prompting("none", prefix="<|user|>").before(rows(1)[0]) == ("<|user|>", "<|user|>")


def test_saved_prompts_are_kept_unless_an_instruction_is_given() -> None:
    saved = Prompting(instructions=None, text_format=PromptTemplate(), saved=("old: ", ""))
    assert saved.before(rows(1)[0]) == ("old: ", "")
    assert prompting("none").before(rows(1)[0]) == ("", "")


def test_columns_take_the_first_negatives_and_repeat_when_short() -> None:
    several = [*rows(2, negatives=3), Triplet(anchor="a", positive="b", negatives=("c",), dataset="one")]
    data = training_data(several, PLAIN, TrainSettings(batch_size=2, hard_negatives=2))
    assert data.columns == ("anchor", "positive", "negative_1", "negative_2")
    stored = data.datasets()["one"]
    assert stored[0] == dict(
        zip(data.columns, (several[0].anchor, several[0].positive, *several[0].negatives[:2]), strict=True)
    )
    assert stored[2] == {"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": "c"}
    assert data.prompts == {"one": dict.fromkeys(data.columns, "")}


def test_without_hard_negatives_there_are_two_columns() -> None:
    data = training_data(rows(4, negatives=0), PLAIN, TrainSettings(batch_size=2, hard_negatives=0))
    assert data.datasets()["one"].column_names == ["anchor", "positive"]


def test_a_row_without_negative_is_named() -> None:
    broken = [*rows(3), Triplet(anchor="a", positive="b", dataset="one", line=3)]
    with pytest.raises(DataError, match=r"row 4 of one has no hard negative.*hard_negatives to 0"):
        training_data(broken, PLAIN, TrainSettings(batch_size=2))


def test_tables_too_small_for_a_batch_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    data = training_data([*rows(8, "one"), *rows(3, "two")], PLAIN, TrainSettings(batch_size=4))
    assert list(data.tables) == ["one"]
    assert data.left_out == {"two": 3}
    assert "two (3)" in capsys.readouterr().err


def test_scores_travel_as_the_label_beside_the_negatives_they_belong_to() -> None:
    scored = [replace(row, scores=(9.0, *(float(place) for place in range(5)))) for row in rows(8, negatives=5)]
    settings = TrainSettings(batch_size=2, hard_negatives=7, negative_sampling="sampled", distil="data")
    data = training_data(scored, PLAIN, settings)
    stored = data.datasets()["one"]
    assert stored.column_names == [*data.columns, "label"]
    for row, found in zip(scored, stored, strict=True):
        texts = [found[f"negative_{number}"] for number in range(1, 8)]
        assert found["label"] == [9.0, *(float(row.negatives.index(text)) for text in texts)]
        assert set(texts) == set(row.negatives)
    assert data.prompts["one"].keys() == set(data.columns)


def test_effirs_instruction_stands_before_queries_word_for_word() -> None:
    expected = "<instruct>Given a query, retrieve relevant passages that answer the query.\n<query>"
    for separator in ("\n", "; ", ""):
        assert prompting("effir", separator=separator).before(rows(1)[0]) == (expected, "")
    assert prompting("effir", "both").before(rows(1)[0]) == (expected, "")


def row(negatives: int, *, name: str = "a", scores: bool = True) -> Triplet:
    taught = (9.0, *(float(number) for number in range(negatives))) if scores else ()
    texts = tuple(f"{name} n{number}" for number in range(negatives))
    return Triplet(anchor=name, positive=f"{name} p", negatives=texts, dataset="one", line=4, scores=taught)


def settings(count: int, sampling: str = "sampled", seed: int = 42) -> TrainSettings:
    return TrainSettings(hard_negatives=count, negative_sampling=sampling, seed=seed)  # type: ignore[arg-type]


def test_the_first_ones_from_the_start_again_when_they_run_out() -> None:
    assert choose_negatives(row(5), settings(3, "first")) == [0, 1, 2]
    assert choose_negatives(row(2), settings(5, "first")) == [0, 1, 0, 1, 0]
    assert choose_negatives(row(2), settings(0)) == choose_negatives(row(0), settings(0)) == []


def test_a_draw_takes_none_twice_while_others_are_left() -> None:
    for number in range(30):
        found = choose_negatives(row(10, name=f"row {number}"), settings(7))
        assert len(set(found)) == 7
        assert set(found) <= set(range(10))
    assert set(Counter(choose_negatives(row(3), settings(7))).values()) == {2, 3}


def test_a_draw_depends_on_seed_and_row_alone() -> None:
    chosen = settings(3)
    draws = {name: choose_negatives(row(10, name=name), chosen) for name in "abcdefgh"}
    assert draws == {name: choose_negatives(row(10, name=name), chosen) for name in reversed("abcdefgh")}
    assert len({tuple(draw) for draw in draws.values()}) > 4
    assert draws != {name: choose_negatives(row(10, name=name), settings(3, seed=1)) for name in draws}
    # Every negative has its turn in some row.
    assert {number for name in range(60) for number in choose_negatives(row(10, name=str(name)), chosen)} == set(range(10))


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        (row(2, scores=False), "0 teacher scores for 3 documents"),
        (Triplet(anchor="a", positive="b", negatives=("c", "d"), dataset="one", line=4, scores=(1.0, 2.0)), "2 teacher scores"),
        (Triplet(anchor="a", positive="b", negatives=("c",), dataset="one", line=4, scores=(1.0, math.nan)), "not finite"),
    ],
)
def test_a_row_without_scores_is_named_where_they_are_learnt(broken: Triplet, found: str) -> None:
    with pytest.raises(DataError, match=rf"row 5 of one has .*{found}.*set distil to none"):
        check_rows([row(2), broken], TrainSettings(distil="data", hard_negatives=2))
    check_rows([row(2), broken], TrainSettings(hard_negatives=2))


def planned(
    small: Path, tmp_path: Path, data: list[Triplet], **settings: Any
) -> tuple[list[tuple[str, list[Triplet]]], TrainingJob]:
    chosen = TrainSettings(dtype="float32", device="cpu", batch_size=8, **settings)
    encoder, job = prepare(small, data, tmp_path / "encoder", chosen)
    collator = NotingCollator.of(encoder, job.data.prompts)
    trainer = make_trainer(job, encoder, build_loss(encoder, chosen), collator)
    return plan_batches(job.data, trainer, chosen.steps), job


def test_one_table_a_batch_and_no_text_twice(small: Path, tmp_path: Path) -> None:
    anchors = [
        Triplet(anchor=f"a{n % 20}", positive=f"p{n}", negatives=(f"p{(n + 1) % 48}",), dataset="same") for n in range(48)
    ]
    batches, _ = planned(small, tmp_path, [*anchors, *rows(24, "two")], steps=20)
    for name, found in batches:
        assert len(found) == 8
        assert {row.dataset for row in found} == {name}
        texts = Counter(text for row in found for text in set(row.texts))
        assert max(texts.values()) == 1
    # Two epochs of 6 + 3 batches, and two more.
    assert Counter(name for name, _ in batches[:9]) == {"same": 6, "two": 3}
    assert len(batches) == 20
    assert batches[:9] != batches[9:18]


def test_repeated_texts_that_leave_no_batch_are_an_error(small: Path, tmp_path: Path) -> None:
    few = [Triplet(anchor=f"a{n % 7}", positive=f"p{n}", negatives=(f"n{n}",), dataset="few") for n in range(40)]
    with pytest.raises(DataError, match=r"few: 40 rows give 0 batches of 8 .*, expected 5; lower batch_size"):
        planned(small, tmp_path, [*rows(24, "two"), *few], steps=8)


def test_largest_batch_is_the_one_with_the_longest_texts(small: Path, tmp_path: Path) -> None:
    long = [Triplet(anchor="q" * 40, positive=f"a long one {n} " * 3, negatives=(f"n {n}",), dataset="two") for n in range(1)]
    batches, job = planned(small, tmp_path, [*rows(24, "one"), *rows(23, "two"), *long], steps=6)
    encoder, _ = prepare(small, rows(24), tmp_path / "other", job.settings)
    columns = largest_batch(batches, job.data, encoder)
    widths = [column["input_ids"].shape for column in columns]
    assert len(widths) == 3
    assert widths[1] == (8, len(encoder.tokenizer(long[0].positive)["input_ids"]))


def test_rows_may_have_different_numbers_of_negatives(small: Path, tmp_path: Path) -> None:
    uneven = [*rows(8, "one", negatives=1), *rows(8, "one", negatives=3, start=8)]
    batches, job = planned(small, tmp_path, uneven, steps=2, hard_negatives=2)
    encoder, _ = prepare(small, uneven, tmp_path / "other", job.settings)
    assert [len(column["input_ids"]) for column in largest_batch(batches, job.data, encoder)] == [8] * 4


PROMPTS = {"one": {"anchor": "find: ", "positive": ""}}


def test_notes_count_tokens_texts_and_cuts(small: Path) -> None:
    encoder = load_encoder(small, device="cpu")
    encoder.max_seq_length = 10
    collator = NotingCollator.of(encoder, PROMPTS)
    ids = encoder.tokenizer("the fox")["input_ids"]
    exact = encoder.tokenizer.decode(encoder.tokenizer("the lazy dog " * 9)["input_ids"][:10])
    assert len(encoder.tokenizer(exact)["input_ids"]) == 10
    rows = [
        {"dataset_name": "one", "anchor": "a", "positive": exact},
        {"dataset_name": "one", "anchor": "b", "positive": "the fox " * 50},
        {"dataset_name": "one", "anchor": "c " * 50, "positive": "the fox"},
    ]
    batch = collator(rows)
    prompt = len(encoder.tokenizer("find: ")["input_ids"])
    assert batch["anchor_prompt_length"] == prompt
    assert torch.equal(batch["positive_input_ids"][2, : len(ids)], torch.tensor(ids))
    # A text of exactly the limit is not cut.
    expected = 2 * len(encoder.tokenizer("find: a")["input_ids"]) + 10 + 10 + 10 + len(ids)
    assert list(collator.notes) == [BatchStats(dataset="one", tokens=expected, texts=6, cut=2)]
    collator(rows[:1])
    assert [note.cut for note in collator.notes] == [2, 0]


E5_TEXT = {"instruction": "e5", "symmetric": "both", "prompts": {"query": "old: "}, "default_prompt": "query"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, E5_TEXT),
        ({"symmetric": "paper"}, {**E5_TEXT, "symmetric": "paper"}),
        (
            {"instruction": "find it"},
            {"instruction": "find it", "symmetric": None, "prompts": {}, "default_prompt": None},
        ),
    ],
)
def test_the_record_says_what_is_trained_with(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert trained_text({"text": E5_TEXT}, TrainSettings(**settings)) == expected


@pytest.mark.parametrize("name", ["e5", " E5 "])
def test_an_e5_base_is_trained_with_e5s_instructions(small: Path, tmp_path: Path, name: str) -> None:
    base = shutil.copytree(small, tmp_path / "base")
    record = json.loads((base / "prune2vec.json").read_text())
    (base / "prune2vec.json").write_text(json.dumps({**record, "text": {**E5_TEXT, "instruction": name}}))
    encoder = load_encoder(base, device="cpu")
    found = Prompting.of(base, encoder, TrainSettings(symmetric="paper"))
    assert found.instructions == Instructions.parse("e5", "paper")
    assert Prompting.of(base, encoder, TrainSettings()).instructions == Instructions.parse("e5", "both")


def test_text_settings_that_are_something_else_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"broken text settings 'e5' in prune2vec.json; make the folder again"):
        trained_text({"text": "e5"}, TrainSettings())
