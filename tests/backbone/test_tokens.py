import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.backbone.tokens import length_batches, tokenise
from prune2vec.errors import DataError
from prune2vec.records.text_format import TextFormat
from tests.tiny import tiny_tokenizer

PLAIN = TextFormat()


def test_everything_is_pooled_without_instruction() -> None:
    (row,) = tokenise(tiny_tokenizer(), [("", "the quick fox")], text_format=PLAIN, max_length=64)
    assert row.start == 0
    assert list(row.ids) == tiny_tokenizer()("the quick fox")["input_ids"]


def test_bos_instruction_and_prefix_are_not_pooled_and_the_suffix_is() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    layout = TextFormat(wrapper="custom", prefix="<|user|>", suffix="</s>", separator="\n")
    (row,) = tokenise(tokenizer, [("find it", "the quick fox")], text_format=layout, max_length=64)
    assert tokenizer.decode(row.ids[: row.start]) == "<s><|user|>find it\n"
    assert tokenizer.decode(row.ids[row.start :]) == "the quick fox</s>"


def test_a_token_across_the_boundary_counts_as_text() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = tokenise(tokenizer, [("find", "quick")], text_format=TextFormat(separator=" "), max_length=64)
    assert tokenizer.decode(row.ids[row.start]).startswith(" ")
    assert tokenizer.decode(row.ids[row.start :]) == " quick"


def test_a_long_text_loses_its_end_and_keeps_prefix_and_suffix() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    layout = TextFormat(wrapper="custom", prefix="<|user|>", suffix="</s>", separator="\n")
    long, short = tokenise(tokenizer, [("find", "quick fox " * 50), ("find", "quick")], text_format=layout, max_length=20)
    assert len(long.ids) == 20
    assert long.truncated
    assert not short.truncated
    assert long.start == short.start
    assert long.ids[: long.start] == short.ids[: short.start]
    assert tokenizer.decode(long.ids[-1]) == "</s>"


def test_instruction_that_leaves_no_room() -> None:
    with pytest.raises(DataError, match="fill all 8 tokens"):
        tokenise(tiny_tokenizer(), [("find " * 20, "quick")], text_format=PLAIN, max_length=8)


def test_text_without_tokens() -> None:
    with pytest.raises(DataError, match="no tokens to pool"):
        tokenise(tiny_tokenizer(), [("find", "")], text_format=PLAIN, max_length=8)


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(64, 1000))
def test_batches_hold_every_row_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, token_budget=budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[row] for row in batch)
        assert len(batch) == 1 or width * len(batch) <= budget


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 200))
def test_packed_batches_hold_every_row_once_and_are_filled_up(lengths: list[int], budget: int) -> None:
    batches = length_batches(lengths, token_budget=budget, packed=True)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    tokens = [sum(lengths[row] for row in batch) for batch in batches]
    assert all(count <= budget or len(batch) == 1 for count, batch in zip(tokens, batches, strict=True))
    for count, following in zip(tokens, batches[1:], strict=False):
        assert count + lengths[following[0]] > budget
