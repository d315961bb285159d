"""The EOS token behind a text: where it is put, and where it is there already."""

from __future__ import annotations

import pytest
from tokenizers import processors
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from prune2vec.errors import ConfigError, ModelError
from prune2vec.models.prepared_text import end_with_eos, own_ending, with_suffix
from prune2vec.models.text_settings import PromptTemplate
from prune2vec.models.tokens import prompt_ids, tokenise
from tests.tiny import tiny_tokenizer

CHAT = PromptTemplate(wrapper="chat", prefix="<|user|>\n", suffix="<s>")


def ending_by_itself(token: str = "</s>") -> PreTrainedTokenizerFast:
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {token}", pair=f"$A $B {token}", special_tokens=[(token, tokenizer.convert_tokens_to_ids(token))]
    )
    return tokenizer


@pytest.mark.parametrize(
    ("append_eos", "pooling", "layout", "suffix"),
    [
        ("auto", "lasttoken", PromptTemplate(), "</s>"),
        ("auto", "mean", PromptTemplate(), ""),
        ("auto", "weightedmean", PromptTemplate(), ""),
        ("auto", "lasttoken", CHAT, "<s>"),
        ("on", "mean", PromptTemplate(), "</s>"),
        ("on", "lasttoken", PromptTemplate(suffix="</s>"), "</s>"),
        ("off", "lasttoken", PromptTemplate(), ""),
    ],
)
def test_where_it_is_put(append_eos: str, pooling: str, layout: PromptTemplate, suffix: str) -> None:
    found = end_with_eos(layout, tiny_tokenizer(), append_eos=append_eos, pooling=pooling)
    assert found.suffix == suffix
    assert (found.prefix, found.separator, found.wrapper) == (layout.prefix, layout.separator, layout.wrapper)


def test_none_is_added_to_a_tokeniser_that_ends_texts_by_itself() -> None:
    assert end_with_eos(PromptTemplate(), ending_by_itself(), append_eos="on", pooling="lasttoken") == PromptTemplate()


def test_the_models_own_ending_stands_even_if_it_is_not_eos() -> None:
    assert own_ending(tiny_tokenizer(bos=True)) == ()
    assert own_ending(ending_by_itself("<pad>")) == ("<pad>",)
    assert end_with_eos(PromptTemplate(), ending_by_itself("<pad>"), append_eos="auto", pooling="lasttoken") == PromptTemplate()
    with pytest.raises(ConfigError, match="ends every text with '<pad>' by itself, not with its EOS token '</s>'"):
        end_with_eos(PromptTemplate(), ending_by_itself("<pad>"), append_eos="on", pooling="lasttoken")
    assert with_suffix(ending_by_itself("<pad>"), "</s>")("a").tokens() == ["a", "</s>", "<pad>"]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="the wrapper ends texts with '<s>'"):
        end_with_eos(CHAT, tiny_tokenizer(), append_eos="on", pooling="mean")
    bare = tiny_tokenizer()
    bare.eos_token = None
    assert end_with_eos(PromptTemplate(), bare, append_eos="auto", pooling="lasttoken") == PromptTemplate()
    with pytest.raises(ConfigError, match="no EOS token"):
        end_with_eos(PromptTemplate(), bare, append_eos="on", pooling="lasttoken")


@pytest.mark.parametrize("text", ["quick fox", "quick fox " * 50])
def test_a_profile_sees_it_behind_cut_texts_too(text: str) -> None:
    layout = end_with_eos(PromptTemplate(), tiny_tokenizer(bos=True), append_eos="auto", pooling="lasttoken")
    (row,) = tokenise(with_suffix(tiny_tokenizer(bos=True), layout.suffix), [("", text)], max_length=16)
    assert row.ids[-1] == 2
    assert row.ids.count(2) == 1
    assert len(row.ids) <= 16


def test_suffix_of_one_special_token() -> None:
    tokenizer = with_suffix(tiny_tokenizer(bos=True), "</s>")
    assert tokenizer("quick").tokens() == ["<s>", *tiny_tokenizer()("quick").tokens(), "</s>"]


@pytest.mark.parametrize("suffix", ["[/INST]", "</s></s>", "a"])
def test_other_suffixes_are_refused(suffix: str) -> None:
    with pytest.raises(ConfigError, match="one special token"):
        with_suffix(tiny_tokenizer(), suffix)


def test_special_tokens_without_a_role_stay_special() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|im_end|>"]})
    ending = with_suffix(tokenizer, "<|im_end|>")
    assert set(ending.all_special_tokens) == set(tokenizer.all_special_tokens)
    assert ending("a").tokens()[-1] == "<|im_end|>"
    assert prompt_ids(ending, "query: ") == tokenizer("query: ")["input_ids"]


def test_a_slow_tokeniser_is_one_line() -> None:
    with pytest.raises(ModelError, match=r"^ByT5Tokenizer has no character offsets; convert it to a fast tokeniser"):
        own_ending(ByT5Tokenizer())
