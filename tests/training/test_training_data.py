"""Tables by data set and instruction, and the columns the trainer gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prune2vec.data.instructions import E5_DATASETS, Instructions
from prune2vec.data.triplet import Triplet, write_triplets
from prune2vec.errors import DataError
from prune2vec.models.text_settings import PromptTemplate
from prune2vec.training.train_settings import TrainSettings
from prune2vec.training.training_data import Prompting, by_prompt, read, training_data
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


def test_data_can_be_rows_or_files(tmp_path) -> None:  # type: ignore[no-untyped-def]
    write_triplets(rows(5, "one"), tmp_path / "one.jsonl")
    assert [row.texts for row in read(tmp_path / "one.jsonl", hard_negatives=1)] == [row.texts for row in rows(5)]
    assert read([tmp_path / "one.jsonl"] * 2, hard_negatives=1)[5:] == read(str(tmp_path / "one.jsonl"), hard_negatives=1)
    assert read(tuple(rows(5)), hard_negatives=1) == rows(5)


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
