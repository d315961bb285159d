"""A vocabulary cut: texts whose tokens all stay keep them exactly, all others are still spelt; ids fit everywhere."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from prune2vec.errors import ModelError, UnsupportedModel
from prune2vec.models.token_kinds import TokenVocabulary, token_numbers
from tests.token_samples import KINDS, SPELT_IN_BYTES, TEXTS, random_texts, sample_tokenizer

VOCABULARIES = {kind: TokenVocabulary(sample_tokenizer(kind), kind) for kind in KINDS}


def closed(vocabulary: TokenVocabulary, numbers: set[int], seen: set[int]) -> list[int]:
    """Return these tokens, what must stay, and the parts of all."""
    always = vocabulary.required([], seen) | vocabulary.spelling(seen)
    return sorted({part for number in numbers | always for part in vocabulary.parts(number)})


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text).ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(
    texts=st.lists(random_texts(), min_size=1, max_size=4),
    others=st.lists(random_texts(), max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**16),
)
def test_texts_of_kept_tokens_are_the_same_and_others_are_spelt(
    kind: str, texts: list[str], others: list[str], share: float, seed: int
) -> None:
    vocabulary = VOCABULARIES[kind]
    seen = {number for text in texts for number in ids_of(vocabulary.backend, text)}
    draw = random.Random(seed)
    some = {number for number in sorted(vocabulary.tokens) if draw.random() < share}
    kept = closed(vocabulary, some, seen)
    trimmed = vocabulary.trimmed(kept)
    unknown = trimmed.token_to_id("<unk>")
    for text in (*texts, *others, *TEXTS):
        before, after = vocabulary.backend.encode(text), trimmed.encode(text)
        # Of an unknown one Unigram tells the characters as the token.
        assert unknown in after.ids or [trimmed.id_to_token(number) for number in after.ids] == after.tokens
        if set(before.ids) <= set(kept):
            assert after.tokens == before.tokens
            assert after.ids == [kept.index(number) for number in before.ids]
            assert after.offsets == before.offsets
        was_known = vocabulary.numbers["<unk>"] not in before.ids
        if was_known and (kind in SPELT_IN_BYTES or text in texts):
            assert unknown not in after.ids
            assert trimmed.decode(after.ids) == vocabulary.backend.decode(before.ids)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30)
@given(text=random_texts(), seed=st.integers(0, 2**16))
def test_a_text_whose_tokens_just_stay(kind: str, text: str, seed: int) -> None:
    # Nothing stays but the text's own tokens and what they need: most merges are gone.
    vocabulary = VOCABULARIES[kind]
    before = vocabulary.backend.encode(text)
    kept = closed(vocabulary, set(before.ids), set())
    assert vocabulary.trimmed(kept).encode(text).tokens == before.tokens


@pytest.mark.parametrize("kind", ["byte-level", "byte-fallback", "all-merges", "unigram-bytes"])
@settings(max_examples=40)
@given(text=random_texts())
def test_bytes_spell_every_text_exactly(kind: str, text: str) -> None:
    vocabulary = VOCABULARIES[kind]
    least = vocabulary.trimmed(closed(vocabulary, set(), set()))
    after = least.encode(text)
    assert least.token_to_id("<unk>") not in [
        number for number, span in zip(after.ids, after.offsets, strict=True) if text[slice(*span)] != "<unk>"
    ]
    assert least.decode(after.ids, skip_special_tokens=False) == vocabulary.backend.decode(
        vocabulary.backend.encode(text).ids, skip_special_tokens=False
    )


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_renewed_everywhere(kind: str) -> None:
    vocabulary = VOCABULARIES[kind]
    kept = closed(vocabulary, set(ids_of(vocabulary.backend, TEXTS[0])), set())
    state = json.loads(vocabulary.trimmed(kept).to_str())
    numbers = {vocabulary.tokens[old]: new for new, old in enumerate(kept)}
    found = state["model"]["vocab"]
    own = {piece: number for number, (piece, _) in enumerate(found)} if isinstance(found, list) else found
    assert {**own, **{token["content"]: token["id"] for token in state["added_tokens"]}} == numbers
    assert sorted(numbers.values()) == list(range(len(kept)))
    (template,) = state["post_processor"]["processors"]
    assert {name: one["ids"] for name, one in template["special_tokens"].items()} == {
        name: [numbers[name]] for name in ("<s>", "</s>")
    }
    assert "<|beyond|>" in numbers
    assert "<added>" not in numbers


def test_an_added_token_stays_where_a_text_has_it() -> None:
    vocabulary = VOCABULARIES["byte-level"]
    seen = set(ids_of(vocabulary.backend, "a lazy dog"))
    assert vocabulary.numbers["lazy dog"] in vocabulary.required([], seen)
    assert vocabulary.numbers["<added>"] not in vocabulary.required([], seen)


@pytest.mark.parametrize("post", [processors.BertProcessing, processors.RobertaProcessing])
def test_other_post_processors(post: type) -> None:
    made = sample_tokenizer("byte-level", ends=False)
    made.post_processor = post(("</s>", made.token_to_id("</s>")), ("<|user|>", made.token_to_id("<|user|>")))
    vocabulary = TokenVocabulary(made, "m")
    trimmed = vocabulary.trimmed(closed(vocabulary, set(), set()))
    assert trimmed.encode("a").tokens == made.encode("a").tokens == ["<|user|>", "a", "</s>"]
    assert [trimmed.id_to_token(number) for number in trimmed.encode("a").ids] == ["<|user|>", "a", "</s>"]


def test_thousands_of_special_tokens_do_not_all_stay() -> None:
    made = sample_tokenizer("byte-level")
    made.add_special_tokens([f"<unused{number}>" for number in range(1200)])
    vocabulary = TokenVocabulary(made, "m")
    role = vocabulary.numbers["<unused7>"]
    stay = vocabulary.required([role], ids_of(made, "see <unused9>"))
    names = {vocabulary.tokens[number] for number in stay}
    assert {"<unused7>", "<unused9>", "<s>", "</s>"} <= names
    assert "<unused8>" not in names


def test_merges_need_all_that_is_between() -> None:
    made = Tokenizer(
        models.BPE(
            {one: number for number, one in enumerate(["a", "b", "c", "d", "ab", "cd", "abcd", "bc", "abc"])},
            [("a", "b"), ("c", "d"), ("ab", "cd"), ("b", "c"), ("ab", "c")],
        )
    )
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = TokenVocabulary(made, "m")
    assert {vocabulary.tokens[one] for one in vocabulary.parts(6)} == {"a", "b", "c", "d", "ab", "cd", "abcd"}
    # b and c are never merged where an a stands before them, and alone nothing else is needed.
    assert {vocabulary.tokens[one] for one in vocabulary.parts(7)} == {"b", "c", "bc"}
    with pytest.raises(ModelError, match="without its parts"):
        vocabulary.trimmed([0, 1, 2, 3, 6])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"), "WordLevel"),
        (models.BPE({"a": 0}, []), "BPE without bytes"),
        (models.BPE({"a": 0}, [], end_of_word_suffix="</w>"), "BPE with end_of_word_suffix"),
        (models.BPE({"a": 0}, [], dropout=0.1), "BPE with dropout"),
    ],
)
def test_other_kinds_are_refused(model: models.Model, says: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"^m: its tokeniser is {says}, whose vocabulary cannot be cut; expected"):
        TokenVocabulary(Tokenizer(model), "m")


def test_numbers_in_a_config() -> None:
    entries = {"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": None, "image_token_index": 5, "vocab_size": 9}
    assert token_numbers(entries) == {"bos_token_id": [1], "eos_token_id": [2, 3], "pad_token_id": [], "image_token_index": [5]}
