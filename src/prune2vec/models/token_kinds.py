"""The vocabulary inside a ``tokenizer.json``: what each token is made of, what must stay, and the tokeniser with fewer tokens.

A text all of whose tokens stay keeps exactly these tokens, for each kind of tokeniser by an argument of its own:

- BPE (Sennrich et al., arXiv 1508.07909) always merges the pair of the lowest rank. Where all merges of a text's tokens stay, in
  their order, the next one is the same at every step, whatever other merges went. The merges inside a token are those of the
  token alone: none of them crosses its ends, or it would not have come out.
- WordPiece takes the longest piece that fits; one that is still there is still the longest.
- Unigram (Kudo, arXiv 1804.10959) takes the segmentation of the highest score; one that is still possible is still the best. What
  spells an unknown character costs ten more than the worst piece, so the worst piece stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from prune2vec.errors import ModelError, UnsupportedModel, explained
from prune2vec.files import digest_json

State = Mapping[str, Any]
"""What a ``tokenizer.json`` holds."""
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
_TOKEN_ENTRY = re.compile(r"_token_(ids?|index)$")
# Gemma has 6,242 special tokens that stand for nothing.
_MANY_SPECIAL = 1000


class _Pieces:
    """The model of one kind of tokeniser, with its own tokens by number; what is only added to them is not here."""

    def __init__(self, model: State, numbers: Mapping[str, int]) -> None:
        self.model, self.numbers = model, numbers
        self.tokens = {number: token for token, number in numbers.items()}

    def required(self) -> set[int]:
        """Return what no text can do without: bytes, the unknown token, the worst piece."""
        return self.known([self.model["unk_token"] or ""])

    def parts(self, number: int) -> set[int]:
        """Return all that a token is merged from, step by step, itself among it."""
        return {number}

    def spelling(self, number: int) -> set[int]:
        """Return the pieces of one character that a text of this token needs where the token goes, or the token itself."""
        return set()

    def alphabet(self) -> list[int]:
        """Return, in order, the pieces that alone can spell a character."""
        return []

    def trimmed(self, numbers: Mapping[int, int]) -> dict[str, Any]:
        """Return the model with these tokens alone, under their new numbers."""
        return {**self.model, "vocab": {self.tokens[old]: new for old, new in numbers.items() if old in self.tokens}}

    def known(self, tokens: Iterable[str]) -> set[int]:
        """Return the numbers of those tokens that there are."""
        return {self.numbers[token] for token in tokens if token in self.numbers}


class _BytePairs(_Pieces):
    """BPE that spells in bytes what it has no character for."""

    def __init__(self, model: State, *, bytes_of: Iterable[str]) -> None:
        super().__init__(model, model["vocab"])
        self._bytes = tuple(bytes_of)
        self._ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}

    def required(self) -> set[int]:
        return super().required() | self.known(self._bytes)

    def parts(self, number: int) -> set[int]:
        symbols = list(self.tokens[number])
        found = set(symbols)
        while len(symbols) > 1:
            ranked = ((self._ranks[pair], at) for at, pair in enumerate(pairwise(symbols)) if pair in self._ranks)
            _, place = min(ranked, default=(0, -1))
            if place < 0:  # No text is merged into this token.
                return {number}
            symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
            found.add(symbols[place])
        return self.known(found) | {number}

    def trimmed(self, numbers: Mapping[int, int]) -> dict[str, Any]:
        model = super().trimmed(numbers)
        merges = [pair for pair in self.model["merges"] if {*pair, "".join(pair)} <= model["vocab"].keys()]
        return {**model, "merges": merges}


class _WordPieces(_Pieces):
    """WordPiece; a word with a character that has no piece is unknown as a whole."""

    def __init__(self, model: State) -> None:
        super().__init__(model, model["vocab"])
        self._inside: str = model["continuing_subword_prefix"]

    def spelling(self, number: int) -> set[int]:
        token = self.tokens[number]
        first, *rest = [self._inside + one for one in token.removeprefix(self._inside)] or [token]
        pieces = {first if token.startswith(self._inside) else first.removeprefix(self._inside), *rest}
        return self.known(pieces) if pieces <= self.numbers.keys() else {number}

    def alphabet(self) -> list[int]:
        return sorted(number for token, number in self.numbers.items() if len(token.removeprefix(self._inside)) == 1)


class _Unigrams(_Pieces):
    """Unigram, which may spell in bytes what it has no piece for."""

    def __init__(self, model: State) -> None:
        super().__init__(model, {token: number for number, (token, _) in enumerate(model["vocab"])})
        self._by_bytes = bool(model["byte_fallback"]) and self.numbers.keys() >= set(_BYTES)

    def required(self) -> set[int]:
        unknown, pieces = self.model["unk_id"], self.model["vocab"]
        worst = min(range(len(pieces)), key=lambda number: pieces[number][1])
        return {worst, *([] if unknown is None else [unknown]), *(self.known(_BYTES) if self._by_bytes else ())}

    def spelling(self, number: int) -> set[int]:
        characters = set(self.tokens[number])
        if self._by_bytes:
            return set()
        return self.known(characters) if characters <= self.numbers.keys() else {number}

    def alphabet(self) -> list[int]:
        return [] if self._by_bytes else sorted(number for token, number in self.numbers.items() if len(token) == 1)

    def trimmed(self, numbers: Mapping[int, int]) -> dict[str, Any]:
        pieces, unknown = self.model["vocab"], self.model["unk_id"]
        stay = [pieces[old] for old in sorted(numbers) if old < len(pieces)]
        return {**self.model, "vocab": stay, "unk_id": None if unknown is None else numbers[unknown]}


class TokenVocabulary:
    """The tokens of a tokeniser by number, those that were added to its model among them."""

    def __init__(self, backend: Tokenizer, who: str) -> None:
        """Read a tokeniser of the model ``who``; ``UnsupportedModel`` unless it is BPE with bytes, WordPiece or Unigram."""
        self.backend, self.who = backend, who
        # As the library writes it: older files leave entries out.
        self._state: State = json.loads(backend.to_str())
        self._pieces = _pieces_of(self._state, who)
        self._added: dict[int, State] = {token["id"]: token for token in self._state["added_tokens"]}
        self.tokens = {**self._pieces.tokens, **{number: str(token["content"]) for number, token in self._added.items()}}
        self.numbers = {token: number for number, token in self.tokens.items()}

    def required(self, roles: Iterable[int], seen: Iterable[int]) -> set[int]:
        """Return the tokens that stay whatever is cut.

        Special ones, unless there are more than a thousand: then those with a role or in a text. Those that the tokeniser puts
        around texts, bytes, what the decoder looks for, and all that texts cannot be spelt without. Of other added tokens those
        that a text has.

        Args:
            roles: Numbers of tokens with a role (BOS, padding, ...).
            seen: Numbers of the tokens that the texts have.
        """
        special = {number for number, token in self._added.items() if token["special"]}
        # One that only matches as a whole word keeps another one from matching where it does not.
        whole_words = {number for number, token in self._added.items() if token["single_word"]}
        return {
            *({*roles, *self._around()} & self.tokens.keys()),
            *(special if len(special) <= _MANY_SPECIAL else ()),
            *(self._added.keys() & set(seen)),
            *whole_words,
            *self._pieces.required(),
            # What a decoder turns into a blank it does not find among bytes.
            *self._pieces.known(_strings(self._state["decoder"])),
        }

    def spelling(self, seen: Iterable[int]) -> set[int]:
        """Return what spells texts of these tokens where the tokens go, one character a piece; nothing where bytes do that."""
        return {piece for number in set(seen) - self._added.keys() for piece in self._pieces.spelling(number)}

    def alphabet(self) -> list[int]:
        """Return, in order, all pieces of one character; none where bytes spell every text."""
        return self._pieces.alphabet()

    def parts(self, number: int) -> set[int]:
        """Return all that a token comes out of, itself among it: of BPE every token on the way from its characters."""
        return self._pieces.parts(number) if number in self._pieces.tokens else {number}

    def digest(self, kept: Iterable[int]) -> str:
        """Return what tells these tokens, by number, from those of another tokeniser; one that it lacks counts as none."""
        return digest_json([[number, self.tokens.get(number)] for number in kept])

    def trimmed(self, kept: Iterable[int]) -> Tokenizer:
        """Return the tokeniser with the tokens ``kept`` alone, numbered anew from 0 in their order.

        Raises:
            ModelError: One of them is not there, or comes out of others that are not kept; or no tokeniser can be made of them.
        """
        numbers = {old: new for new, old in enumerate(sorted(kept))}
        lost = next((old for old in numbers if old not in self.tokens or not self.parts(old) <= numbers.keys()), None)
        if lost is not None:
            raise ModelError(
                f"{self.who}: its tokeniser cannot keep token {lost} ({self.tokens.get(lost)!r}) without its parts"
            )
        state = {
            **self._state,
            # It belongs to a call.
            "padding": None,
            "added_tokens": [{**self._added[old], "id": new} for old, new in numbers.items() if old in self._added],
            "post_processor": _renumbered(self._state["post_processor"], numbers.__getitem__),
            "model": self._pieces.trimmed(numbers),
        }
        with explained(ModelError, f"{self.who}: no tokeniser can be made of {len(numbers)} of its tokens"):
            made = Tokenizer.from_str(json.dumps(state))
        if made.get_vocab() != {self.tokens[old]: new for old, new in numbers.items()}:
            raise ModelError(f"{self.who}: its tokeniser does not take new numbers; keep its whole vocabulary")
        return made

    def _around(self) -> Set[int]:
        found: set[int] = set()

        def note(number: int) -> int:
            found.add(number)
            return number

        _renumbered(self._state["post_processor"], note)
        return found


def lowered(backend: Tokenizer) -> Tokenizer:
    """Return a tokeniser that lowers the case of texts first; one that does so already is returned as it is."""
    state = json.loads(backend.to_str())
    normalizer = state["normalizer"]
    steps = [] if normalizer is None else normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    if any(step["type"] == "Lowercase" for step in steps):
        return backend
    return Tokenizer.from_str(
        json.dumps({**state, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *steps]}})
    )


def _pieces_of(state: State, who: str) -> _Pieces:
    model = state["model"]
    kind = model["type"]
    if kind == "WordPiece":
        return _WordPieces(model)
    if kind == "Unigram":
        return _Unigrams(model)
    if kind == "BPE":
        # Alone or in a sequence, before the model or as the way in which characters are read.
        byte_level = '"ByteLevel"' in json.dumps([state["pre_tokenizer"], state["normalizer"]])
        odd = [name for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix") if model[name]]
        # Merged bytes would be parts of tokens that no characters tell of.
        merged_bytes = not byte_level and any({*pair} & set(_BYTES) for pair in model["merges"])
        if not odd and not merged_bytes and (byte_level or (model["byte_fallback"] and model["vocab"].keys() >= set(_BYTES))):
            return _BytePairs(model, bytes_of=ByteLevel.alphabet() if byte_level else _BYTES)
        kind = f"BPE with {odd[0]}" if odd else "BPE with merges of bytes" if merged_bytes else "BPE without bytes"
    raise UnsupportedModel(
        f"{who}: its tokeniser is {kind}, whose vocabulary cannot be cut; expected byte-level BPE, BPE with byte fallback, WordPiece "
        "or Unigram: keep the whole vocabulary (--vocabulary all)"
    )


def _strings(entry: Any) -> Iterator[str]:
    """Yield all strings in a piece of JSON, keys aside."""
    if isinstance(entry, str):
        yield entry
    for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
        yield from _strings(inner)


def _renumbered(processor: Any, number: Callable[[int], int]) -> Any:
    """Return a post-processor with every token's number put through ``number``."""
    if processor is None:
        return None
    changed = dict(processor)
    if processor["type"] == "Sequence":
        changed["processors"] = [_renumbered(one, number) for one in processor["processors"]]
    for end in ("sep", "cls"):
        if end in processor:
            token, old = processor[end]
            changed[end] = [token, number(old)]
    if "special_tokens" in processor:
        tokens = processor["special_tokens"]
        changed["special_tokens"] = {name: {**one, "ids": [number(old) for old in one["ids"]]} for name, one in tokens.items()}
    return changed


def token_numbers(config: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the entries of a ``config.json`` that hold numbers of tokens (``bos_token_id``, ...), each as a list."""
    found = {key: value if isinstance(value, list) else [value] for key, value in config.items() if _TOKEN_ENTRY.search(key)}
    return {key: [one for one in listed if isinstance(one, int)] for key, listed in found.items()}
