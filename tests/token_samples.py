"""Tiny trained tokenisers of the kinds whose vocabulary can be cut, and texts of many languages for them."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model

TEXTS = (
    "The quick brown fox jumps over the lazy dog while 12 or 345 birds sing in the morning light of spring.",
    "Layers of a language model hold what an encoder needs, and some of them can be cut without much loss.",
    "def add(a, b):\n    return a + b  # sum\n\nclass Reader:\n\tdef __init__(self, path):\n\t\tself.path = path\n",
    "Zürich, naïve café — ¿qué? Straße, Łódź; le cœur a ses raisons que la raison ne connaît point.",
    "東京は日本の首都です。今日は天気がいいから散歩しましょう。",
    "Быстрая коричневая лиса прыгает через ленивую собаку, а птицы поют весной.",
    "الثعلب البني السريع يقفز فوق الكلب الكسول", "המהיר השועל קופץ מעל הכלב", "नमस्ते दुनिया, यह एक परीक्षण है",
    "emoji 😀😃 👩‍👩‍👧 🇨🇭 and 1,000,000.5 numbers; x = {'a': [1, 2, 3]}; a_b.c-d/e\\f",
    "the the the there other another brother mother; in on an and hand sand band stand standing",
)  # fmt: skip
COMMON = ["the other brother and mother stand", "sing in the band", "the lazy dog", "a b c", "12 or 345"]
KINDS = ("byte-level", "byte-fallback", "all-merges", "wordpiece", "unigram", "unigram-bytes")
SPELT_IN_BYTES = ("byte-level", "byte-fallback", "all-merges", "unigram-bytes")
_PADDED_ROWS = 24
_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<|user|>"]
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def random_texts() -> st.SearchStrategy[str]:
    """Return texts of pieces of ``TEXTS``, of their characters and of any characters at all."""
    words = sorted({word for text in TEXTS for word in text.split()})
    characters = sorted({one for text in TEXTS for one in text})
    part = st.one_of(
        st.sampled_from(words),
        st.text(st.sampled_from(characters), max_size=12),
        st.text(max_size=6),
        st.sampled_from(_SPECIALS),
    )
    return st.lists(st.tuples(part, st.sampled_from(["", " ", "  ", "\n", "\t"])), max_size=12).map(
        lambda parts: "".join(word + space for word, space in parts)
    )


@functools.cache
def _trained(kind: str) -> str:
    trainer: Any
    if kind == "byte-level":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        made.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=700, special_tokens=_SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
    elif kind in ("byte-fallback", "all-merges"):
        made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        # Without it whole texts would become tokens.
        made.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        trainer = trainers.BpeTrainer(vocab_size=800, special_tokens=[*_SPECIALS, *_BYTES], show_progress=False)
    elif kind == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token="<unk>"))
        made.normalizer = normalizers.BertNormalizer(lowercase=True)
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        made.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=_SPECIALS, show_progress=False)
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=_SPECIALS, unk_token="<unk>", show_progress=False)
    made.train_from_iterator([text for text in TEXTS for _ in range(3)], trainer)
    state = json.loads(made.to_str())
    # The trainer takes bytes as special tokens alone.
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] not in _BYTES]
    if kind == "all-merges":
        state["model"]["merges"] = _all_merges(state["model"]["vocab"])
    if kind == "unigram-bytes":
        state["model"]["vocab"] += [[byte, -20.0] for byte in _BYTES]
        state["model"]["byte_fallback"] = True
    return json.dumps(state)


def _all_merges(vocabulary: dict[str, int]) -> list[list[str]]:
    """Return every way in which two tokens make a third one, as tokenisers from SentencePiece have them."""
    found = [
        (number, vocabulary[token[:cut]], vocabulary[token[cut:]], [token[:cut], token[cut:]])
        for token, number in vocabulary.items()
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary and token not in (*_SPECIALS, *_BYTES)
    ]
    return [pair for *_, pair in sorted(found)]


def sample_tokenizer(kind: str, *, ends: bool = True) -> Tokenizer:
    """Return a tokeniser of a kind, with a token that is only added; ``ends`` puts ``<s>`` and ``</s>`` around texts."""
    made = Tokenizer.from_str(_trained(kind))
    made.add_tokens(["<added>", "lazy dog"])
    made.add_special_tokens(["<|beyond|>"])
    if ends:
        pair = [(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
        made.post_processor = processors.Sequence(
            [processors.TemplateProcessing(single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=pair)]
        )
    return made


def save_model(folder: Path, kind: str = "byte-level", family: str = "llama", *, ends: bool = True, **changes: Any) -> Path:
    """Write a tiny checkpoint with a tokeniser of a kind, and more embeddings than tokens."""
    tokenizer = sample_tokenizer(kind, ends=ends)
    rows = tokenizer.get_vocab_size() + _PADDED_ROWS
    roles = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tiny_model(family, causal_lm=True, vocab_size=rows, **changes).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **roles).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [2, 4], "sep_token_id": rows + 7}))
    (folder / "corpus.txt").write_text("\n".join([*COMMON * 3, *(text.replace("\n", " ") for text in TEXTS[:2])]))
    return folder
