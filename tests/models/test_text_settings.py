from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from pydantic import TypeAdapter, ValidationError

from prune2vec.errors import DataError
from prune2vec.models.text_settings import Head, PromptTemplate, TextOptions, TextSettings, WrittenText

CHAT = PromptTemplate(wrapper="chat", prefix="<|user|>\n", suffix="<|end|>", separator=": ")


def test_nothing_is_added_by_default() -> None:
    assert PromptTemplate().before() == "" and PromptTemplate().suffix == ""


@pytest.mark.parametrize(
    ("layout", "instruction", "before"),
    [
        (PromptTemplate(separator="; "), "Find it", "Find it; "),
        (PromptTemplate(), "Find it", "Find it" + PromptTemplate().separator),
        (CHAT, "Find it", "<|user|>\nFind it: "),
        (CHAT, "", "<|user|>\n"),
    ],
)
def test_what_stands_before_a_text(layout: PromptTemplate, instruction: str, before: str) -> None:
    assert layout.before(instruction) == before


def test_round_trip() -> None:
    assert PromptTemplate.from_json(asdict(CHAT)) == CHAT


@pytest.mark.parametrize("value", [{"prefx": "a"}, [], None, "none"])
def test_what_is_no_text_format_is_one_line(value: object) -> None:
    with pytest.raises(DataError, match=r"^broken text format [^\n]+; make the folder again with prune2vec prune$"):
        PromptTemplate.from_json(value)  # type: ignore[arg-type]


def test_an_instruction_may_bring_its_own_separator() -> None:
    layout = PromptTemplate(prefix="<user>", separator="; ")
    assert layout.before("Find it", "\n<query>") == "<user>Find it\n<query>"
    assert layout.before("Find it", "") == "<user>Find it"
    assert layout.before("", "\n<query>") == "<user>"


def test_what_only_encoders_bring_is_left_out_of_the_records_of_others() -> None:
    plain = TextSettings().model_dump(mode="json")
    assert not {"lower_case", "heads", "truncate_dim", "similarity", "matryoshka_dims"} & plain.keys()
    written = TypeAdapter(WrittenText)
    assert written.validate_json(json.dumps(plain), strict=True) == TextSettings()
    head = Head(kind="Dense", config={"in_features": 8, "bias": False, "activation_function": "torch.nn.Tanh"}, digest="ab")
    brought = TextSettings(heads=(head, Head(kind="Dropout", config={"dropout": 0.0})), truncate_dim=8, similarity="dot")
    assert written.validate_json(json.dumps(brought.model_dump(mode="json")), strict=True) == brought
    with pytest.raises(ValidationError, match="pooling is missing"):
        written.validate_json(json.dumps({key: value for key, value in plain.items() if key != "pooling"}))


def test_another_pooling_before_heads_is_told() -> None:
    text = TextSettings(pooling="mean", heads=(Head(kind="Dense"), Head(kind="LayerNorm")))
    changed, words = text.overridden(TextOptions(pooling="max"))
    assert changed.heads == text.heads
    assert words == ["pooling 'max' instead of 'mean'", "its heads (Dense, LayerNorm) were trained behind mean pooling"]
    assert text.overridden(TextOptions(pooling="mean")) == (text, [])
