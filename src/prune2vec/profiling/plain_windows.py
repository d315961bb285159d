"""Plain text as windows of equal length, cut from one stream of tokens as in language modelling."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from prune2vec.data.rows import read_jsonl, read_lines
from prune2vec.errors import DataError
from prune2vec.models.tokens import TokenRow, token_ids
from prune2vec.progress import say

_PROSE = (".txt", ".md")
_ROWS = (".jsonl",)
_AT_ONCE = 1000


def plain_windows(
    source: Path, tokenizer: PreTrainedTokenizerBase, *, count: int, length: int, context: int, seed: int
) -> list[TokenRow]:
    """Return windows of plain text: documents end to end, an end-of-text token between them, no other special tokens.

    Args:
        source: A .txt or .md file (one document), a .jsonl file with a document a line in ``text``, or a folder of these,
            in the order of their paths; .gz may follow.
        tokenizer: The model's tokeniser.
        count: Windows wanted; where there are more, so many are drawn, in the order of the text.
        length: Tokens in each.
        context: Most tokens that the model has positions for.
        seed: Seed of the draw.

    Raises:
        DataError: The source cannot be read or does not fill one window.
    """
    if length > context:
        say(f"windows have {context} tokens instead of {length}: the model has no positions beyond")
        length = context
    stream = _token_stream(_documents(source), tokenizer)
    there = len(stream) // length
    if not there:
        raise DataError(f"{source} has {len(stream)} tokens, less than one window of {length}; give more plain text")
    if there < count:
        say(f"{source} fills {there} windows of {length} tokens instead of {count}")
    chosen = sorted(random.Random(seed).sample(range(there), min(count, there)))
    return [TokenRow(tuple(stream[length * window : length * (window + 1)]), start=0) for window in chosen]


def _token_stream(documents: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> array[int]:
    # Four bytes a token: a list would take nine times that.
    stream = array("i")
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    remaining = iter(documents)
    while texts := list(islice(remaining, _AT_ONCE)):
        for ids in token_ids(tokenizer, texts, special=False):
            stream.extend(end if stream else [])
            stream.extend(ids)
    return stream


def _documents(source: Path) -> Iterator[str]:
    """Yield the documents that hold more than blanks."""
    kinds = (*_PROSE, *_ROWS)
    if source.is_dir():
        paths = sorted(path for path in source.rglob("*") if path.is_file() and _suffix(path) in kinds)
        paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(source).parts)]
    else:
        paths = [source] if _suffix(source) in kinds else []
    if not paths:
        raise DataError(f"{source}: no plain text; expected {', '.join(kinds)} files (perhaps .gz), or a folder of them")
    for path in paths:
        texts = _column(path) if _suffix(path) in _ROWS else ["".join(line for _, line in read_lines(path))]
        yield from (text for text in texts if text.strip())


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _column(path: Path) -> Iterator[str]:
    for row in read_jsonl(path):
        text = row.values.get("text")
        if not isinstance(text, str):
            raise DataError(
                f'{row.where}: expected a document in the column "text", found {", ".join(row.values) or "nothing"}'
            )
        yield text
