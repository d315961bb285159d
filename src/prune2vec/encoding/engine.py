"""Texts to vectors with an encoder's own modules, without a mask where none is needed.

sentence-transformers pads a batch of 32 and passes a mask. A causal model never looks at what comes after a token, so
with padding on the right it needs no mask, and without one the attention kernel's own causal path serves. Batches hold
texts of nearly equal length, up to a number of tokens; pooling and normalisation are sentence-transformers' own, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import Tensor
from torch.nn.functional import normalize

from prune2vec.backbone.tokens import length_batches
from prune2vec.errors import EncodingError

_PROBE_TOKENS = 8


class Engine:
    """Encodes texts to the vectors of ``SentenceTransformer.encode``.

    Args:
        encoder: A Transformer, its pooling and what follows, on its device.
        token_budget: Most tokens of one forward pass, padding included.
        prompt: Text before every text; None for the encoder's default prompt, if it has one.
        dimensions: Keep so many leading dimensions; vectors of an encoder that normalises are normalised again.

    Raises:
        EncodingError: The encoder is not a text encoder with a token model first.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        *,
        token_budget: int = 4096,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        encoder.eval()
        self.encoder = encoder
        self.token_budget = token_budget
        self.dimension = dimensions or int(encoder.get_embedding_dimension() or 0)
        default = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else ""
        self.prompt = (default if prompt is None else prompt) or ""
        transformer: Any = encoder[0]
        model = getattr(transformer, "auto_model", None)
        if model is None or not hasattr(transformer, "tokenizer"):
            raise EncodingError(f"cannot encode texts with {type(transformer).__name__}; expected a Transformer first")
        self._model = model
        self._tokenizer = transformer.tokenizer
        self._prompt_length = transformer.preprocess(["a"], prompt=self.prompt).get("prompt_length") if self.prompt else None
        self._normalises = any(isinstance(module, Normalize) for module in encoder)
        self.is_causal = self._looks_only_back()

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of every text under the prompt, cut at the encoder's limit."""
        if not texts:
            return []
        encoded = self._tokenizer(
            [self.prompt + text for text in texts],
            truncation=True,
            max_length=self.encoder.max_seq_length,
            padding=False,
            return_attention_mask=False,
        )
        rows: list[list[int]] = encoded["input_ids"]
        return rows

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of ``texts`` in their order: (text, dim) float32."""
        return self.encode_rows(self.tokenise(texts))

    @torch.inference_mode()
    def encode_rows(
        self, rows: Sequence[Sequence[int]], advance: Callable[[float], None] = lambda amount: None
    ) -> NDArray[np.float32]:
        """Return the vectors of tokenised texts in their order: (text, dim) float32.

        Args:
            rows: Token ids, as from ``tokenise``.
            advance: Called with the number of tokens after each batch.

        Raises:
            EncodingError: A vector is NaN or infinite.
        """
        out = np.empty((len(rows), self.dimension), dtype=np.float32)
        for batch in length_batches([len(row) for row in rows], token_budget=self.token_budget):
            vectors = self._forward([rows[place] for place in batch]).float().cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
            if len(bad):
                text = self._tokenizer.decode(list(rows[batch[bad[0]]])[:12])
                raise EncodingError(f"NaN or infinity in the vector of {text!r}...; encode with --dtype float32")
            out[batch] = vectors
            advance(sum(len(rows[place]) for place in batch))
        return out

    def _forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        ids, mask = self._padded(rows)
        inputs = {"input_ids": ids} if self.is_causal else {"input_ids": ids, "attention_mask": mask}
        features: dict[str, Any] = {
            "token_embeddings": self._model(**inputs, use_cache=False)[0].float(),
            "attention_mask": mask,
        }
        if self._prompt_length is not None:
            features["prompt_length"] = self._prompt_length
        for module in list(self.encoder)[1:]:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"][:, : self.dimension]
        whole = vectors.shape[1] == features["sentence_embedding"].shape[1]
        return vectors if whole or not self._normalises else normalize(vectors, dim=1)

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # A text may have no tokens at all; sentence-transformers pools it to a zero vector.
        width = max(1, *(len(row) for row in rows))
        pad = self._tokenizer.pad_token_id or 0
        ids = torch.full((len(rows), width), pad)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        device = self._model.device
        return ids.to(device), mask.to(device)

    @torch.inference_mode()
    def _looks_only_back(self) -> bool:
        """Return whether an early token's state is the same whatever comes after it."""
        vocabulary = int(self._model.get_input_embeddings().num_embeddings)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, max(2, vocabulary - 1), (1, _PROBE_TOKENS), generator=generator)
        other = ids.clone()
        other[0, -1] = 1 + int(other[0, -1]) % max(1, vocabulary - 2)
        one, two = (self._model(input_ids=x.to(self._model.device), use_cache=False)[0][:, :-1].float() for x in (ids, other))
        return bool(torch.allclose(one, two, rtol=1e-3, atol=1e-3 * float(one.abs().max())))
