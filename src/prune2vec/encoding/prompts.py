"""An engine for texts of one kind: the encoder's own prompt by its name, its limit on length, its dimensions."""

from __future__ import annotations

from sentence_transformers import SentenceTransformer

from prune2vec.encoding.engine import Engine
from prune2vec.errors import EncodingError, did_you_mean

# An encoder without these prompts puts nothing before a text, as in encode_query and encode_document.
_USUAL = ("none", "query", "document")


def prompted_engine(
    encoder: SentenceTransformer,
    *,
    prompt: str,
    max_length: int | None = None,
    dimensions: int | None = None,
    token_budget: int | None = None,
) -> Engine:
    """Return an engine that puts the named prompt before every text.

    Args:
        encoder: The encoder; its limit on length is lowered to ``max_length``.
        prompt: query, document, none, or another of the encoder's prompts.
        max_length: Longest text in tokens; None keeps the encoder's limit.
        dimensions: Leading dimensions to keep; None keeps all.
        token_budget: Most tokens of one forward pass; None for what suits the device.

    Raises:
        EncodingError: The encoder has no such prompt, or fewer dimensions.
    """
    if max_length is not None:
        encoder.max_seq_length = min(max_length, encoder.max_seq_length or max_length)
    if prompt not in (*_USUAL, *encoder.prompts):
        raise EncodingError(f"the encoder has no prompt {prompt!r}{did_you_mean(prompt, list(encoder.prompts))}")
    if dimensions is not None and dimensions > (encoder.get_embedding_dimension() or 0):
        raise EncodingError(f"dimensions {dimensions}: the encoder has {encoder.get_embedding_dimension()}")
    return Engine(encoder, token_budget=token_budget, prompt=encoder.prompts.get(prompt) or "", dimensions=dimensions)
