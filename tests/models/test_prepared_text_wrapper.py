import pytest

from prune2vec.errors import ModelError
from prune2vec.models.prepared_text import chat_template
from tests.tiny import tiny_tokenizer

TEMPLATE = "{{ bos_token }}{% for m in messages %}<|user|>\n{{ m['content'] }}</s>\n{% endfor %}"


def test_chat_template_becomes_literal_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    layout = chat_template(tokenizer, wrapper="chat", separator="; ")
    assert (layout.prefix, layout.suffix, layout.separator) == ("<s><|user|>\n", "</s>", "; ")


def test_bos_is_not_doubled() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    tokenizer.chat_template = TEMPLATE
    assert chat_template(tokenizer, wrapper="chat").prefix == "<|user|>\n"


def test_none_adds_nothing() -> None:
    layout = chat_template(tiny_tokenizer())
    assert layout.before() == ""
    assert layout.suffix == ""
    assert layout.before("find it") == "find it\n"


def test_no_template() -> None:
    with pytest.raises(ModelError, match="no chat template"):
        chat_template(tiny_tokenizer(), wrapper="chat")


def test_template_that_hides_the_text() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "hello"
    with pytest.raises(ModelError, match="0 times"):
        chat_template(tokenizer, wrapper="chat")


def test_broken_template() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for %}"
    with pytest.raises(ModelError, match="cannot render"):
        chat_template(tokenizer, wrapper="chat")
