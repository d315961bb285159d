"""Encoding many texts with a progress bar, and a word about any embedding that is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from prune2vec.errors import EncodingError, EvaluationError
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.models.tokens import longest_first, token_ids
from prune2vec.progress import progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Side = Literal["queries", "documents"]
SIDES: dict[str | None, Side] = {"query": "queries", "document": "documents"}
"""The sides by mteb's name of them."""
# Texts that are tokenised and sorted together; 16 batches where the batch size is given.
_WINDOW, _BATCHES_PER_STEP = 4096, 16


def side_prompt(model: SentenceTransformer, side: Side | None) -> str:
    """Return what ``encode_query`` or ``encode_document`` puts before a text; for neither side, what ``encode`` does."""
    query, document = saved_prompts(model.prompts, model.default_prompt_name)
    default = model.prompts.get(model.default_prompt_name or "") or ""
    return {"queries": query, "documents": document}[side] if side is not None else default


def side_encode(encoder: LoadedEncoder, side: Side, *, batch_size: int) -> Callable[[list[str]], Any]:
    """Return what encodes texts of one side to (text, dim): the engine if the encoder has one, else the model itself.

    Args:
        encoder: The encoder.
        side: Whose prompt is used.
        batch_size: Texts per forward pass of the model itself; the engine goes by tokens.
    """
    if encoder.engine is not None:
        return encoder.engine.with_prompt(side_prompt(encoder.model, side)).encode
    encode = encoder.model.encode_query if side == "queries" else encoder.model.encode_document
    return lambda texts: encode(texts, batch_size=batch_size, show_progress_bar=False)


def encode_texts(encoder: LoadedEncoder, texts: Sequence[str], side: Side, *, batch_size: int) -> Tensor:
    """Return the embeddings of ``texts`` in fp32 on the CPU, (texts, dimension), with the encoder's own prompt for ``side``.

    Raises:
        EvaluationError: An embedding is not finite; the text is named.
    """
    if not texts:
        raise EvaluationError(f"no {side} to encode")
    order = longest_first([len(text) for text in texts])
    encode = side_encode(encoder, side, batch_size=batch_size)
    step = batch_size * _BATCHES_PER_STEP if encoder.engine is None else _WINDOW
    parts: list[Tensor] = []
    with progress(f"encoding {side}", sum(len(text) + 1 for text in texts)) as advance:
        for start in range(0, len(order), step):
            chosen = [texts[i] for i in order[start : start + step]]
            try:
                parts.append(torch.as_tensor(encode(chosen)).float())
            except EncodingError as error:
                raise EvaluationError(f"{side}: {error}") from error
            advance(sum(len(text) + 1 for text in chosen))
    found = torch.empty(len(texts), parts[0].shape[1])
    found[order] = torch.cat(parts)
    broken = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        count = f"{len(broken)} of {len(texts)} {side}"
        raise EvaluationError(f"{count} have no finite embedding in {encoder.dtype}: {texts[broken[0]][:40]!r}; try float32")
    return found


def count_tokens(encoder: LoadedEncoder, texts: Sequence[str], side: Side) -> list[int]:
    """Return each text's number of tokens before truncation, prompt and special tokens included."""
    prompt = side_prompt(encoder.model, side)
    return [len(row) for row in token_ids(encoder.model.tokenizer, texts, prompt=prompt)]
