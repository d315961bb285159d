"""Texts to vectors with an encoder's own modules, without padding or a mask where none is needed.

sentence-transformers pads a batch of 32 and passes a mask. On a CPU texts are laid end to end instead, where the model's
attention can be told where each begins. Elsewhere batches hold texts of nearly equal length; a causal model never looks at
what comes after a token, so with padding on the right it needs no mask, and without one the attention kernel's own causal
path serves. Batches go up to a number of tokens; pooling and normalisation are sentence-transformers' own, in fp32.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from torch import Tensor
from torch.nn.functional import normalize

from prune2vec.errors import EncodingError
from prune2vec.forward.batches import pad
from prune2vec.forward.packed import BOUNDS, packable, packed_states, packing_obstacle, row_bounds
from prune2vec.machine import forward_tokens
from prune2vec.models.rope import length_kind
from prune2vec.models.selftest import is_causal
from prune2vec.models.tokens import length_batches

_PER_TASK = ("query_length", "document_length", "query_expansion")
# Capitals, blanks at both ends, and no words at all.
_PROBE = (" A probe, with Capitals\tand  blanks ", "a", "")


class Engine:
    """Encodes texts to the vectors of ``SentenceTransformer.encode``.

    Args:
        encoder: A Transformer, its pooling and what follows, on its device.
        token_budget: Most tokens of one forward pass, padding included; None for what suits device and model.
        prompt: Text before every text; None for the encoder's default prompt, if it has one.
        dimensions: Keep so many leading dimensions; vectors of an encoder that normalises are normalised again. None
            keeps the encoder's own, as ``SentenceTransformer.encode`` does.

    Raises:
        EncodingError: The encoder is not a text encoder with a token model first, computes queries otherwise than
            documents, or gives its texts other tokens than its tokeniser alone (a chat template does).
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        *,
        token_budget: int | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        encoder.eval()
        self.encoder = encoder
        self.dimension = dimensions or int(encoder.get_embedding_dimension() or 0)
        self._transformer = _token_model(encoder)
        self._model = self._transformer.auto_model
        self._tokenizer = self._transformer.tokenizer
        self._rows = int(self._model.get_input_embeddings().weight.shape[0])
        self.is_causal = is_causal(self._model)
        self._kind = length_kind(self._model)
        self._token_budget = token_budget
        self._normalises_again = dimensions is not None and any(isinstance(module, Normalize) for module in encoder)
        default = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else ""
        self._take_prompt((default if prompt is None else prompt) or "")

    def with_prompt(self, prompt: str) -> Self:
        """Return this engine with another text before every text; the model is shared."""
        other = copy.copy(self)
        # Found out once, not by every copy.
        other.packs = self.packs
        other._take_prompt(prompt)
        return other

    @cached_property
    def packs(self) -> bool:
        """Whether texts are laid end to end: on a CPU alone, as each length is a call of the attention kernel."""
        if self._model.device.type != "cpu" or not self.is_causal or not isinstance(self.encoder[1], Pooling):
            return False
        return not packing_obstacle(self._model, max_length=self.encoder.max_seq_length or sys.maxsize)

    @property
    def token_budget(self) -> int:
        """Most tokens of one forward pass."""
        return self._token_budget or forward_tokens(self._model.device, packed=self.packs)

    def _take_prompt(self, prompt: str) -> None:
        self.prompt = prompt
        features = self._transformer.preprocess(list(_PROBE), prompt=prompt or None)
        self._prompt_length = features.get("prompt_length")
        ids, mask = (features[name].cpu() for name in ("input_ids", "attention_mask"))
        if [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)] != self.tokenise(_PROBE):
            under = f" under the prompt {prompt!r}" if prompt else ""
            raise EncodingError(
                f"sentence-transformers gives the encoder other tokens than its tokeniser does{under}; has it a chat template?"
            )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of every text under the prompt, cut at the encoder's limit.

        Raises:
            EncodingError: A text has a token that the model has no embedding for.
        """
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
        if len(self._tokenizer) > self._rows:
            self._check_known(texts, rows)
        return rows

    def _check_known(self, texts: Sequence[str], rows: Sequence[Sequence[int]]) -> None:
        for text, row in zip(texts, rows, strict=True):
            if max(row, default=0) >= self._rows:
                token = self._tokenizer.convert_ids_to_tokens(max(row))
                raise EncodingError(
                    f"the tokeniser gives {text[:40]!r} the token {token!r} ({max(row)}), and the model's embedding has "
                    f"{self._rows} rows; leave such texts out"
                )

    def encode(self, texts: Sequence[str], advance: Callable[[float], None] = lambda amount: None) -> NDArray[np.float32]:
        """Return the vectors of ``texts`` in their order: (text, dim) float32; see ``encode_rows``."""
        return self.encode_rows(self.tokenise(texts), advance)

    @torch.inference_mode()
    def encode_rows(
        self, rows: Sequence[Sequence[int]], advance: Callable[[float], None] = lambda amount: None
    ) -> NDArray[np.float32]:
        """Return the vectors of tokenised texts in their order: (text, dim) float32. Equal texts are computed once.

        Args:
            rows: Token ids, as from ``tokenise``.
            advance: Called with the number of tokens after each batch.

        Raises:
            EncodingError: A vector is NaN or infinite.
        """
        numbers: dict[tuple[int, ...], int] = {}
        places = [numbers.setdefault(tuple(row), len(numbers)) for row in rows]
        distinct = list(numbers)
        lengths = [len(row) for row in distinct]
        tokens = np.bincount(np.asarray(places, dtype=np.int64), minlength=len(distinct)) * np.asarray(lengths, dtype=np.int64)
        found = np.empty((len(distinct), self.dimension), dtype=np.float32)
        # For a query alone it is not worth finding out what the model can take.
        several = len(distinct) > 1
        batches = [[0]] * len(distinct)
        if several:
            batches = length_batches(lengths, token_budget=self.token_budget, packed=self.packs, kind=self._kind)
        with packable(self._model) if several and self.packs else nullcontext():
            for batch in batches:
                found[batch] = self._checked([distinct[number] for number in batch])
                advance(float(tokens[batch].sum()))
        return found if len(distinct) == len(rows) else found[places]

    def _checked(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._forward(rows).float().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            text = self._tokenizer.decode(list(rows[bad[0]])[:12])
            raise EncodingError(f"NaN or infinity in the vector of {text!r}...; encode with --dtype float32")
        return vectors

    def _forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        prompt = int(torch.as_tensor(self._prompt_length or 0).flatten()[0])
        # A text without a token of its own is nothing to pool, which only the padded form can tell.
        packed = len(rows) > 1 and min(map(len, rows)) > prompt and self.packs
        features = self._packed(rows) if packed else self._padded(rows)
        if self._prompt_length is not None:
            features["prompt_length"] = self._prompt_length
        for module in list(self.encoder)[1:]:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"][:, : self.dimension]
        return normalize(vectors, dim=1) if self._normalises_again else vectors

    def _packed(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        states = packed_states(self._model, rows).float()
        return {"token_embeddings": states[None], BOUNDS: row_bounds(rows, states.device)}

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, Any]:
        ids, mask = (part.to(self._model.device) for part in pad(rows, self._tokenizer.pad_token_id or 0))
        inputs = {"input_ids": ids} if self.is_causal else {"input_ids": ids, "attention_mask": mask}
        states: Tensor = self._model(**inputs, use_cache=False)[0].float()
        return {"token_embeddings": states, "attention_mask": mask, "input_ids": ids}


def _token_model(encoder: SentenceTransformer) -> Any:
    """Return an encoder's first module, a Transformer, if all of its texts take the same way."""
    transformer: Any = encoder[0]
    if getattr(transformer, "auto_model", None) is None or not hasattr(transformer, "tokenizer"):
        raise EncodingError(f"cannot encode texts with {type(transformer).__name__}; expected a Transformer first")
    # A router has a branch of modules for each task, and the engine would take the default one for all texts.
    if "task" in encoder.get_model_kwargs():
        raise EncodingError(
            "the encoder computes queries otherwise than documents; "
            "encode with sentence-transformers' encode_query and encode_document"
        )
    if any(getattr(transformer, name, None) is not None for name in _PER_TASK):
        raise EncodingError("the encoder has another limit on length for queries than for documents")
    return transformer
