import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import DataError
from prune2vec.models.prepared_text import with_suffix
from prune2vec.models.tokens import distinct, length_batches, longest_first, token_ids, tokenise, tokenise_text_alone
from tests.tiny import tiny_tokenizer


def test_everything_is_pooled_without_instruction() -> None:
    (row,) = tokenise(tiny_tokenizer(), [("", "the quick fox")], max_length=64)
    assert row.start == 0
    assert list(row.ids) == tiny_tokenizer()("the quick fox")["input_ids"]


def test_bos_is_pooled_without_a_prompt_and_with_it_neither_is() -> None:
    tokenizer = with_suffix(tiny_tokenizer(bos=True), "</s>")
    bare, prompted = tokenise(tokenizer, [("", "the quick fox"), ("<|user|>find it\n", "the quick fox")], max_length=64)
    assert bare.start == 0
    assert tokenizer.decode(prompted.ids[: prompted.start]) == "<s><|user|>find it\n"
    assert tokenizer.decode(prompted.ids[prompted.start :]) == "the quick fox</s>"
    (whole,) = tokenise(tokenizer, [("<|user|>find it\n", "the quick fox")], max_length=64, include_prompt=True)
    assert (whole.ids, whole.start) == (prompted.ids, 0)


def test_the_papers_code_pools_neither_bos_nor_prompt_and_the_suffix() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    texts = [("<|user|>find it\n", "the quick fox"), ("", "quick")]
    row, bare = tokenise_text_alone(tokenizer, texts, suffix="</s>", max_length=64)
    assert tokenizer.decode(bare.ids[bare.start :]) == "quick</s>"
    assert tokenizer.decode(row.ids[: row.start]) == "<s><|user|>find it\n"
    assert tokenizer.decode(row.ids[row.start :]) == "the quick fox</s>"


def test_a_token_across_the_boundary_counts_as_text() -> None:
    tokenizer = tiny_tokenizer()
    (row,) = tokenise_text_alone(tokenizer, [("find ", "quick")], max_length=64)
    assert tokenizer.decode(row.ids[row.start]).startswith(" ")
    assert tokenizer.decode(row.ids[row.start :]) == " quick"


def test_a_long_text_loses_its_end_and_keeps_prefix_and_suffix() -> None:
    tokenizer = with_suffix(tiny_tokenizer(bos=True), "</s>")
    prompt = "<|user|>find\n"
    long, short = tokenise(tokenizer, [(prompt, "quick fox " * 50), (prompt, "quick")], max_length=20)
    assert len(long.ids) == 20
    assert long.truncated
    assert not short.truncated
    assert long.start == short.start
    assert long.ids[: long.start] == short.ids[: short.start]
    assert tokenizer.decode(long.ids[-1]) == "</s>"


def test_instruction_that_leaves_no_room() -> None:
    with pytest.raises(DataError, match="fill all 8 tokens"):
        tokenise(tiny_tokenizer(), [("find " * 20, "quick")], max_length=8)


def test_text_without_tokens() -> None:
    with pytest.raises(DataError, match="no tokens to pool"):
        tokenise(tiny_tokenizer(), [("find", "")], max_length=8)


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


def test_equal_rows_are_counted_once_and_the_longest_comes_first() -> None:
    rows = [(1,), (2, 3), (1,), (4, 5), (2, 3)]
    assert distinct(rows) == ([(1,), (2, 3), (4, 5)], [0, 1, 0, 2, 1])
    assert longest_first([len(row) for row in rows]) == [1, 3, 4, 0, 2]


def test_ids_are_the_tokenisers_own() -> None:
    tokenizer = tiny_tokenizer(bos=True)
    texts, whole = ["the quick fox", ""], tokenizer("find it: the quick fox")["input_ids"]
    assert token_ids(tokenizer, texts, prompt="find it: ") == [whole, tokenizer("find it: ")["input_ids"]]
    assert token_ids(tokenizer, texts[:1], prompt="find it: ", max_length=3)[0] == whole[:3]
    assert token_ids(tokenizer, texts[:1], prompt="find it: ", special=False)[0] == whole[1:]
    assert token_ids(tokenizer, []) == []
