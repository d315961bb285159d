"""A tokeniser as GGUF files describe it: tokens, how text is split and merged, and what is put around it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from gguf import Keys, TokenType
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import CheckpointError, shown
from prune2vec.models.gguf_tokenizer import split_name
from prune2vec.models.tokens import fast, token_ids

_BLANK = "▁"
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding", "mask": "mask"}
_ONWARD = "export it to onnx, which carries any tokeniser"


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[str, Any]:
    """Return the metadata that tell a tokeniser: byte-level BPE, SentencePiece's BPE, or WordPiece.

    Args:
        tokenizer: A fast one.
        rows: How many rows the token embeddings have: as many tokens are told, those that the tokeniser lacks as unused.

    Raises:
        CheckpointError: llama.cpp has no such tokeniser.
    """
    state = json.loads(fast(tokenizer).backend_tokenizer.to_str())
    model, kind = state["model"], _kind(state)
    told: dict[str, Any] = {"model": kind, "pre": "default"}
    if kind == "gpt2":
        told |= {"pre": _split(tokenizer, state), "merges": [" ".join(pair) for pair in model["merges"]]}
    elif kind == "bert":
        told |= _casing(state)
    told |= _tokens(state, kind, tokenizer.get_vocab(), rows)
    if kind == "llama":
        told |= {"scores": _scores(model, told["tokens"])}
        begins = tokenizer.convert_ids_to_tokens(token_ids(tokenizer, ["text"], special=False)[0])[0].startswith(_BLANK)
        told |= {"add_space_prefix": begins}
    told |= _frame(tokenizer, kind, rows)
    return {key if key.startswith("tokenizer.") else f"tokenizer.ggml.{key}": value for key, value in told.items()}


def composes(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokeniser composes characters first (NFC), which llama.cpp does not."""
    return _steps(json.loads(fast(tokenizer).backend_tokenizer.to_str())["normalizer"]) == ["NFC"]


def _kind(state: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a tokeniser's kind."""
    model = state["model"]
    if model["type"] == "WordPiece":
        return "bert"
    if model["type"] == "BPE" and '"ByteLevel"' in json.dumps(state["pre_tokenizer"]):
        return "gpt2"
    if model["type"] == "BPE" and model["byte_fallback"]:
        return "llama"
    raise CheckpointError(
        f"a GGUF file cannot tell this encoder's tokeniser ({model['type']}); expected byte-level BPE, BPE with bytes to fall "
        f"back on, or WordPiece: {_ONWARD}"
    )


def _steps(normalizer: Mapping[str, Any] | None) -> list[str]:
    if normalizer is None:
        return []
    return [step["type"] for step in normalizer.get("normalizers", [normalizer])]


def _split(tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any]) -> str:
    name = split_name(tokenizer.backend_tokenizer)
    if name is None or _steps(state["normalizer"]) not in ([], ["NFC"]):
        raise CheckpointError(
            f"llama.cpp has no name for how this encoder's tokeniser prepares text ({shown(state['normalizer'], 60)}, "
            f"{shown(state['pre_tokenizer'], 100)}): {_ONWARD}"
        )
    return name


def _casing(state: Mapping[str, Any]) -> dict[str, bool]:
    """Return how WordPiece's words are made of text."""
    steps, whole = _steps(state["normalizer"]), state["normalizer"] or {}
    bert: dict[str, Any] = next(
        (step for step in whole.get("normalizers", [whole]) if step.get("type") == "BertNormalizer"), {}
    )
    lower = bool(bert.get("lowercase")) or "Lowercase" in steps
    asked = bert.get("strip_accents")
    fits = {*steps} <= {"Lowercase", "BertNormalizer"} and bert.get("clean_text") and bert.get("handle_chinese_chars")
    if not fits or (state["pre_tokenizer"] or {}).get("type") != "BertPreTokenizer":
        raise CheckpointError(
            f"llama.cpp prepares text for WordPiece as BERT does, this encoder's tokeniser otherwise ({shown(whole, 100)}, "
            f"{shown(state['pre_tokenizer'], 60)}): {_ONWARD}"
        )
    # strip_accents that is not set follows the casing of BertNormalizer itself, before which others may have lowered text.
    strips = bool(bert.get("lowercase")) if asked is None else bool(asked)
    return {"normalizer.lowercase": lower, "normalizer.strip_accents": strips}


def _tokens(state: Mapping[str, Any], kind: str, vocab: Mapping[str, int], rows: int) -> dict[str, list[Any]]:
    """Return each row's token and its type."""
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [int(TokenType.UNUSED)] * rows
    added = {token["id"]: token["special"] for token in state["added_tokens"]}
    for token, number in vocab.items():
        # transformers' classes add tokens for which no model has a row.
        if number >= rows:
            continue
        special = added.get(number)
        if special is None:
            tokens[number], types[number] = _plain(state["model"], kind, token)
        else:
            # Blanks are themselves in what is looked for in the text before it is split.
            tokens[number] = token.replace(_BLANK, " ") if kind == "llama" and not special else token
            types[number] = int(TokenType.CONTROL if special else TokenType.USER_DEFINED)
    (double, times), *_ = Counter(tokens).most_common(1)
    if times > 1:
        raise CheckpointError(
            f"two tokens of this encoder are {shown(double)!r} in a GGUF file, which llama.cpp refuses: {_ONWARD}"
        )
    return {"tokens": tokens, "token_type": types}


def _plain(model: Mapping[str, Any], kind: str, token: str) -> tuple[str, int]:
    """Return a token that is not an added one as files spell it, and its type."""
    if token == model.get("unk_token") and kind != "gpt2":
        return token, int(TokenType.UNKNOWN)
    if kind == "bert":
        # The beginning of a word is marked instead of its continuation.
        rest = token.removeprefix(model["continuing_subword_prefix"])
        return (rest if rest != token else _BLANK + token), int(TokenType.NORMAL)
    is_byte = kind == "llama" and len(token) == 6 and token.startswith("<0x") and token.endswith(">")
    return token, int(TokenType.BYTE if is_byte else TokenType.NORMAL)


def _scores(model: Mapping[str, Any], tokens: list[str]) -> list[float]:
    """Return the score of each token: the sooner a merge makes it, the higher."""
    first: dict[str, int] = {}
    for rank, pair in enumerate(model["merges"]):
        first.setdefault("".join(pair), rank)
    return [float(-first.get(token, len(model["merges"]))) for token in tokens]


def _frame(tokenizer: PreTrainedTokenizerBase, kind: str, rows: int) -> dict[str, Any]:
    """Return which tokens play which role, and which of them stand around every text."""
    plain, framed = (token_ids(tokenizer, ["text"], special=special)[0] for special in (False, True))
    places = [place for place in range(len(framed)) if framed[place : place + len(plain)] == plain]
    before, behind = (framed[: places[0]], framed[places[0] + len(plain) :]) if places else ([], framed)
    if len(before) > 1 or len(behind) > 1 or (kind == "bert" and not (before and behind)):
        names = [tokenizer.convert_ids_to_tokens(row) for row in (before, behind)]
        raise CheckpointError(
            f"llama.cpp puts at most one token before a text and one behind it, this encoder {names}: {_ONWARD}"
        )
    roles = {role: getattr(tokenizer, f"{role}_token_id", None) for role in _ROLES}
    roles |= {role: row[0] for role, row in (("bos", before), ("eos", behind)) if row}
    told: dict[str, Any] = {
        f"{_ROLES[role]}_token_id": number for role, number in roles.items() if number is not None and number < rows
    }
    if kind == "bert":
        return told | {"cls_token_id": before[0], Keys.Tokenizer.SEP_ID: behind[0]}
    return told | {"add_bos_token": bool(before), "add_eos_token": bool(behind)}


def blank_behind(told: Mapping[str, Any]) -> list[str]:
    """Return the added tokens behind which llama.cpp puts a blank as at the beginning of a text, and the tokeniser none."""
    if not told.get("tokenizer.ggml.add_space_prefix"):
        return []
    both = zip(told["tokenizer.ggml.tokens"], told["tokenizer.ggml.token_type"], strict=True)
    return [token for token, kind in both if kind == TokenType.USER_DEFINED]


def spelled(told: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the tokens of WordPiece's metadata as the tokeniser spells them, with their numbers; unused ones aside."""
    types = told["tokenizer.ggml.token_type"]
    for number, token in enumerate(told["tokenizer.ggml.tokens"]):
        if types[number] == TokenType.NORMAL:
            yield (token[1:] if token.startswith(_BLANK) else f"##{token}"), number
        elif types[number] != TokenType.UNUSED:
            yield token, number
