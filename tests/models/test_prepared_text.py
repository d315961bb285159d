"""Text settings made ready for a tokeniser: what stands before a text, or a refusal of what no folder could hold."""

from typing import Any

import pytest

from prune2vec.errors import ConfigError
from prune2vec.models.prepared_text import PreparedText, prepare_text
from prune2vec.models.text_settings import TextSettings
from tests.tiny import tiny_tokenizer

TEMPLATE = "{% for message in messages %}User: {{ message['content'] }}</s>{% endfor %}"


def prepared(**settings: Any) -> PreparedText:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return prepare_text(TextSettings(**settings), tokenizer, context=256)


@pytest.mark.parametrize("prompts", [{}, {"query": "", "document": ""}])
def test_a_wrapper_stands_around_the_texts_of_an_encoder_without_prompts(prompts: dict[str, str]) -> None:
    made = prepared(instruction="saved", prompts=prompts, wrapper="chat", include_prompt=True)
    assert made.prompts == {"query": "User: ", "document": "User: "}
    assert made.default_prompt == "document"
    assert made.settings.instruction == "none"


def test_a_wrapper_and_an_encoders_own_prompts_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="exclude each other; give an instruction too"):
        prepared(instruction="saved", prompts={"query": "q: ", "document": ""}, wrapper="chat")


@pytest.mark.parametrize("instruction", ["E5", " e5 ", "e5"])
def test_the_instructions_of_data_sets_are_looked_at_like_any_other(instruction: str) -> None:
    assert prepared(instruction=instruction).settings.instruction == "e5"
    with pytest.raises(ConfigError, match="does not end between two tokens"):
        prepared(instruction=instruction, separator="; ")


@pytest.mark.parametrize(("given", "kept"), [("", "none"), (" None", "none"), ("EffiR", "effir"), ("Find: ", "Find: ")])
def test_words_of_ours_have_one_spelling(given: str, kept: str) -> None:
    assert TextSettings(instruction=given).instruction == kept
