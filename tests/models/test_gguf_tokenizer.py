"""Tokenisers of GGUF files: as the file says, or refused."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gguf", reason="the gguf extra is not installed")

from prune2vec.errors import ModelError
from prune2vec.models.gguf_file import GGUFFile
from prune2vec.models.gguf_tokenizer import tokenizer_of
from tests.gguf_files import tokenizer_metadata, write_gguf
from tests.tiny import tiny_tokenizer


def tokenizer_for(path: Path, rows: int = 384, **said: Any) -> Any:
    write_gguf(path / "a.gguf", said={f"tokenizer.ggml.{key}": value for key, value in said.items()})
    return tokenizer_of(GGUFFile.open(path / "a.gguf"), rows)[0]


def test_ids_are_the_originals(tmp_path: Path) -> None:
    tokenizer, original = tokenizer_for(tmp_path), tiny_tokenizer()
    for text in ("a 12 or 345", "the quick  brown\n\tfox", "naïve café 東京 🙂", "<s> is special, <|endoftext|> is not"):
        assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert len(tokenizer) == 384
    assert tokenizer.model_max_length == 256
    assert tokenizer.padding_side == "right"


def test_single_digit_split_is_restored(tmp_path: Path) -> None:
    tokenizer = tokenizer_for(tmp_path, pre="smollm")
    # "345" and " 12" are in the vocabulary of the tiny tokeniser; a single-digit split never uses them.
    assert any(len(token) > 1 for token in tiny_tokenizer()("in 345 and  12").tokens() if any(map(str.isdigit, token)))
    assert all(not any(c.isdigit() for c in token) or len(token) == 1 for token in tokenizer("in 345 and  12 days").tokens())


def test_qwens_compose_characters(tmp_path: Path) -> None:
    tokenizer = tokenizer_for(tmp_path, pre="qwen2")
    assert tokenizer("cafe\u0301")["input_ids"] == tokenizer("caf\u00e9")["input_ids"]


def test_llama_3_takes_whole_words_from_the_vocabulary(tmp_path: Path) -> None:
    said = tokenizer_metadata()
    tokens = said["tokenizer.ggml.tokens"]
    word = next(token for token in tokens[260:] if token.isalpha() and token.isascii() and len(token) > 2)
    kept = [merge for merge in said["tokenizer.ggml.merges"] if merge.replace(" ", "") != word]
    tokenizer = tokenizer_for(tmp_path, pre="llama-bpe", merges=kept, add_bos_token=None)
    assert tokenizer(word)["input_ids"] == [1, tokens.index(word)], "BOS, and the word in one piece though no merge makes it"


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("eos", [True, False, None])
def test_bos_and_eos_are_added_as_the_file_says(tmp_path: Path, bos: bool, eos: bool | None) -> None:
    tokenizer = tokenizer_for(tmp_path, add_bos_token=bos, add_eos_token=eos)
    plain = tiny_tokenizer()("quick", add_special_tokens=False)["input_ids"]
    assert tokenizer("quick")["input_ids"] == [1] * bos + plain + [2] * bool(eos)
    assert tokenizer("quick", add_special_tokens=False)["input_ids"] == plain
    tokenizer.save_pretrained(tmp_path / "saved")
    again = type(tokenizer).from_pretrained(tmp_path / "saved")
    assert again("quick")["input_ids"] == tokenizer("quick")["input_ids"]


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"pre": "falcon"}, "tokenizer.ggml.pre 'falcon'"),
        ({"pre": None}, "tokenizer.ggml.pre None"),
        ({"model": "bert", "pre": "jina"}, "tokenizer.ggml.model is 'bert'"),
        ({"model": "rwkv", "pre": None}, "rwkv"),
        ({"add_sep_token": True}, "add_sep_token is True"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces is True"),
        ({"add_space_prefix": True}, "add_space_prefix is True, the converted tokeniser does False"),
        ({"something_new": 1}, "something_new is 1"),
        ({"bos_token_id": 384}, "bos_token_id is 384"),
        ({"eos_token_id": "2"}, "eos_token_id is '2'"),
        ({"bos_token_id": None, "add_bos_token": True}, "add_bos_token is true, but it names no bos token"),
        ({"tokens": None}, "holds no tokeniser"),
        ({"tokens": [1, 2]}, "holds no tokeniser"),
        ({"merges": ["zz qq"]}, "no tokeniser can be made"),
    ],
)
def test_what_is_not_carried_over_is_refused_by_name(tmp_path: Path, said: dict[str, Any], match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        tokenizer_for(tmp_path, **said)
    assert "\n" not in str(caught.value)


def test_more_tokens_than_rows(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has 384 tokens, its embeddings 380 rows"):
        tokenizer_for(tmp_path, 380)


def test_more_rows_than_tokens_are_padding(tmp_path: Path) -> None:
    assert len(tokenizer_for(tmp_path, 400)) == 384


def test_sentencepiece(tmp_path: Path) -> None:
    letters = sorted({*"abcdefghijklmnopqrstuvwxyzHTQ,.!():=—naïvecafé東京0123456789", "▁", "\n", "\t"})
    words = ["▁t", "te", "▁te", "xt", "▁text"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *words]
    scores = [0.0] * 259 + [-1000.0] * len(letters) + [-float(rank) for rank in range(len(words))]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (len(letters) + len(words))
    said = {"model": "llama", "pre": "default", "merges": None, "padding_token_id": None, "unknown_token_id": 0}
    made = tokenizer_for(tmp_path, len(tokens), tokens=tokens, scores=scores, token_type=kinds, add_bos_token=None, **said)
    assert made("text").tokens() == ["<s>", "▁text"], "BOS is added unless the file says otherwise, and a blank before the text"
    with pytest.raises(ModelError, match="add_space_prefix is False"):
        tokenizer_for(tmp_path, len(tokens), tokens=tokens, scores=scores, token_type=kinds, add_space_prefix=False, **said)
