from __future__ import annotations

import pytest

from prune2vec.errors import DataError
from prune2vec.models.text_settings import PromptTemplate

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
    assert PromptTemplate.from_json(CHAT.to_json()) == CHAT


@pytest.mark.parametrize("value", [{"prefx": "a"}, [], None, "none"])
def test_what_is_no_text_format_is_one_line(value: object) -> None:
    with pytest.raises(DataError, match=r"^broken text format [^\n]+; make the folder again with prune2vec prune$"):
        PromptTemplate.from_json(value)  # type: ignore[arg-type]


def test_an_instruction_may_bring_its_own_separator() -> None:
    layout = PromptTemplate(prefix="<user>", separator="; ")
    assert layout.before("Find it", "\n<query>") == "<user>Find it\n<query>"
    assert layout.before("Find it", "") == "<user>Find it"
    assert layout.before("", "\n<query>") == "<user>"
