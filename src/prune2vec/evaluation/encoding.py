"""Encoding many texts with a progress bar, and a word about any embedding that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from prune2vec.errors import EvaluationError
from prune2vec.evaluation.encoders import LoadedEncoder
from prune2vec.progress import progress

Side = Literal["queries", "documents"]
_BATCHES_PER_STEP = 16


def encode_texts(encoder: LoadedEncoder, texts: Sequence[str], side: Side, *, batch_size: int) -> Tensor:
    """Return the embeddings of ``texts`` in fp32 on the CPU, (texts, dimension), with the encoder's own prompt for ``side``.

    Raises:
        EvaluationError: An embedding is not finite; the text is named.
    """
    encode = encoder.model.encode_query if side == "queries" else encoder.model.encode_document
    order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
    found: Tensor | None = None
    with progress(f"encoding {side}", sum(len(text) + 1 for text in texts)) as advance:
        for start in range(0, len(order), batch_size * _BATCHES_PER_STEP):
            chosen = order[start : start + batch_size * _BATCHES_PER_STEP]
            vectors = encode([texts[i] for i in chosen], batch_size=batch_size, show_progress_bar=False)
            part = torch.as_tensor(vectors).float()
            if found is None:
                found = torch.empty(len(texts), part.shape[1])
            found[chosen] = part
            advance(sum(len(texts[i]) + 1 for i in chosen))
    if found is None:
        raise EvaluationError(f"no {side} to encode")
    broken = (~found.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if broken:
        count = f"{len(broken)} of {len(texts)} {side}"
        raise EvaluationError(f"{count} have no finite embedding in {encoder.dtype}: {texts[broken[0]][:40]!r}; try float32")
    return found


def count_tokens(encoder: LoadedEncoder, texts: Sequence[str], side: Side) -> list[int]:
    """Return each text's number of tokens before truncation, prompt and special tokens included."""
    prompt = encoder.model.prompts.get("query" if side == "queries" else "document") or ""
    rows = encoder.model.tokenizer([prompt + text for text in texts], truncation=False, verbose=False)["input_ids"]
    return [len(row) for row in rows]
