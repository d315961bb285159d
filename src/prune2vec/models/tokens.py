"""From texts to token rows, with the mark where pooling begins."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from prune2vec.errors import DataError, ModelError
from prune2vec.models.token_kinds import lowered

Row = TypeVar("Row", bound=Hashable)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
"""What transformers calls the tokens that have a part to play."""
NO_TEXT_ROLES = ("unk_token", "mask_token")
"""Those that stand around no text."""


@dataclass(frozen=True)
class TokenRow:
    """One tokenised text.

    Attributes:
        ids: Token ids, special tokens included.
        start: Position of the first pooled token; everything before it is attended to only.
        truncated: Whether the text was longer than the limit.
    """

    ids: tuple[int, ...]
    start: int
    truncated: bool = False


def token_ids(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    prompt: str = "",
    max_length: int | None = None,
    special: bool = True,
) -> list[list[int]]:
    """Return the token ids of every text behind a prompt, as the tokeniser gives them.

    A row has at most ``max_length`` tokens, special ones included; ``special`` puts the tokeniser's own around each text.
    """
    if not texts:
        return []
    rows: list[list[int]] = tokenizer(
        [prompt + text for text in texts],
        add_special_tokens=special,
        truncation=max_length is not None,
        max_length=max_length,
        padding=False,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    return rows


def tokenise(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], *, max_length: int, include_prompt: bool = False
) -> list[TokenRow]:
    """Tokenise (prompt, text) pairs, and pool what sentence-transformers pools of an encoder with this tokeniser.

    A text that is too long loses its end, never its prompt nor what the tokeniser puts around it. Without a prompt every
    token is pooled, BOS too; with one, the tokens that the prompt has alone are not, unless ``include_prompt``.

    Raises:
        DataError: Prompt and ending alone are longer than ``max_length``, or a text has no tokens at all.
        ModelError: The tokeniser is a slow one without character offsets.
    """
    rows = tokenise_text_alone(tokenizer, texts, max_length=max_length)
    prompts = {prompt for prompt, _ in texts}
    starts = {prompt: 0 if include_prompt else len(prompt_ids(tokenizer, prompt)) for prompt in prompts}
    return [replace(row, start=starts[prompt]) for row, (prompt, _) in zip(rows, texts, strict=True)]


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, *, max_length: int | None = None) -> list[int]:
    """Return the ids before the text as sentence-transformers counts them: nothing without a prompt, else BOS and prompt.

    Like a text it is cut at ``max_length`` tokens.
    """
    if not prompt:
        return []
    (ids,) = token_ids(tokenizer, [prompt], max_length=max_length)
    return ids[:-1] if ids[-1] in tokenizer.all_special_ids else ids


def fast(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return the tokeniser if it is a fast one, which knows where in a text a token stands; another is a ``ModelError``."""
    if tokenizer.is_fast:
        return tokenizer
    raise ModelError(f"{type(tokenizer).__name__} has no character offsets; convert it to a fast tokeniser (tokenizer.json)")


def without_added(backend: Tokenizer, keep: Callable[[int], bool]) -> Tokenizer:
    """Return a tokeniser of the tokenizers library without those of its added tokens whose ids are not to be kept."""
    state = json.loads(backend.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if keep(token["id"])]
    return Tokenizer.from_str(json.dumps(state))


def lower_casing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokeniser that lowers the case of texts first, as sentence-transformers makes of one with ``do_lower_case``.

    One that does so already is returned as it is.

    Raises:
        ModelError: It is a slow one.
    """
    backend = fast(tokenizer).backend_tokenizer
    lowering = lowered(backend)
    if lowering is backend:
        return tokenizer
    other = copy.deepcopy(tokenizer)
    other._tokenizer = lowering
    return other


def tokenise_text_alone(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]], *, suffix: str = "", max_length: int
) -> list[TokenRow]:
    """Tokenise (prompt, text) pairs and pool the text and what stands behind it, but neither BOS nor prompt (L3Prune's code).

    The boundary between what is pooled and what is not is found by character offsets, so a token that straddles it
    counts as text. A text that is too long loses its end, never its prompt, suffix or end-of-text token.

    ``suffix`` is put behind every text; it is pooled, as in L3Prune.

    Raises:
        DataError: Prompt and suffix alone are longer than ``max_length``, or a text has no tokens at all.
        ModelError: The tokeniser is a slow one without character offsets.
    """
    fast(tokenizer)
    if not texts:
        return []
    wholes = [before + text + suffix for before, text in texts]
    encoded = tokenizer(
        wholes, return_offsets_mapping=True, return_attention_mask=False, padding=False, truncation=False, verbose=False
    )
    rows = []
    for ids, offsets, (before, _), whole in zip(encoded["input_ids"], encoded["offset_mapping"], texts, wholes, strict=True):
        first, last = len(before), len(whole) - len(suffix)
        text = [place for place, (begin, end) in enumerate(offsets) if end > first and begin < last and end > begin]
        if not text:
            raise DataError("a text has no tokens to pool (it is empty or only characters that the tokeniser drops)")
        start, stop = text[0], text[-1] + 1
        room = max_length - start - (len(ids) - stop)
        if room < 1:
            raise DataError(f"prompt and ending fill all {max_length} tokens; raise max_length or shorten the instruction")
        if stop - start > room:
            rows.append(TokenRow((*ids[: start + room], *ids[stop:]), start, truncated=True))
        else:
            rows.append(TokenRow(tuple(ids), start))
    return rows


def distinct(rows: Iterable[Row]) -> tuple[list[Row], list[int]]:
    """Return the different rows in order of appearance, and for each row its number among them: equal ones are computed once."""
    numbers: dict[Row, int] = {}
    places = [numbers.setdefault(row, len(numbers)) for row in rows]
    return list(numbers), places


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Return the numbers of the rows by length, in whatever unit, the longest first; equal ones stay in order."""
    return sorted(range(len(lengths)), key=lambda place: -lengths[place])


def length_batches(
    lengths: Sequence[int],
    *,
    token_budget: int,
    packed: bool = False,
    kind: Callable[[int], Hashable] = lambda length: None,
) -> list[list[int]]:
    """Group row numbers by length, in tokens, into batches, longest first; a row longer than the budget makes a batch of its own.

    A batch has at most ``token_budget`` tokens, with padding to its longest row unless rows are ``packed`` end to end. Rows of
    two kinds do not share a batch; ``kind`` tells them by the length.
    """
    batches: list[list[int]] = []
    width = held = 0
    for row in longest_first(lengths):
        more = lengths[row] if packed else width
        if batches and held + more <= token_budget and kind(lengths[row]) == kind(lengths[batches[-1][0]]):
            batches[-1].append(row)
            held += more
        else:
            batches.append([row])
            width = held = lengths[row]
    return batches
