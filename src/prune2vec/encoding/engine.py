"""Texts to vectors with an encoder's own modules, without padding or a mask where none is needed.

sentence-transformers pads a batch of 32 and passes a mask. On a CPU texts are laid end to end instead, where the model's
attention can be told where each begins. Elsewhere batches hold texts of nearly equal length; a causal model never looks at
what comes after a token, so with padding on the right it needs no mask, and without one the attention kernel's own causal
path serves. Batches go up to a number of tokens; pooling and what follows are computed in fp32: by us for a ``PlainEncoder``, for
any other encoder by its own modules.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from prune2vec.errors import ConfigError, EncodingError, did_you_mean, nan_remedy
from prune2vec.forward.batches import Batch, forget_longest_text, make_batches, packing_obstacle, rope_factor
from prune2vec.forward.memory_plan import tokens_per_pass
from prune2vec.forward.packed import BOUNDS, packable
from prune2vec.forward.pooling import poolings
from prune2vec.models.heads import NORMALIZE, read_out
from prune2vec.models.load import context_length, embedding_rows
from prune2vec.models.selftest import is_causal
from prune2vec.models.tokens import TokenRow, distinct, prompt_ids, token_ids
from prune2vec.pruning.plain_encoder import AnyEncoder, PlainEncoder, module_kinds

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_NO_LIMIT = 10**9
_PER_TASK = ("query_length", "document_length", "query_expansion")
# An encoder without these prompts puts nothing before a text, as in encode_query and encode_document.
_USUAL = ("none", "query", "document")
# Capitals, blanks at both ends, and no words at all.
_PROBE = (" A probe, with Capitals\tand  blanks ", "a", "")


class Engine:
    """Encodes texts to the vectors of ``SentenceTransformer.encode``.

    Args:
        encoder: An encoder on its device: one loaded to encode, or a SentenceTransformer with a token model first.
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
        encoder: AnyEncoder,
        *,
        token_budget: int | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        # What is pooled is fp32, and so is all that follows; sentence-transformers has the heads in the model's dtype.
        self._behind: list[nn.Module] = []
        if isinstance(encoder, PlainEncoder):
            self._transformer: Any = None
            self._model, self._tokenizer = encoder.transformers_model, encoder.tokenizer
        else:
            _check_stock(encoder)
            encoder.eval()
            self._transformer = encoder[0]
            self._model, self._tokenizer = self._transformer.auto_model, self._transformer.tokenizer
            self._behind = [copy.deepcopy(module).float() for module in list(encoder)[1:]]
        self.encoder = encoder
        self.dimension = dimensions or int(encoder.get_embedding_dimension() or 0)
        self._rows = embedding_rows(self._model)
        forget_longest_text(self._model)
        self._token_budget = token_budget
        kinds = module_kinds(encoder)
        self._pools = kinds[1:2] == ["Pooling"]
        self.normalises = kinds[-1] == NORMALIZE
        self._normalises_again = dimensions is not None and self.normalises
        default = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else ""
        self._take_prompt((default if prompt is None else prompt) or "")

    def with_prompt(self, prompt: str) -> Self:
        """Return this engine with another text before every text; the model is shared."""
        other = copy.copy(self)
        # Found out once, not by every copy.
        other.packs, other.is_causal = self.packs, self.is_causal
        other._take_prompt(prompt)
        return other

    @cached_property
    def packs(self) -> bool:
        """Whether texts are laid end to end: on a CPU alone, as each length is a call of the attention kernel."""
        if self._model.device.type != "cpu" or not self._pools:
            return False
        return not packing_obstacle(self._model, max_length=self.encoder.max_seq_length or sys.maxsize)

    @cached_property
    def is_causal(self) -> bool:
        """Whether no token sees those after it, so that padding on the right needs no mask."""
        return is_causal(self._model)

    @property
    def token_budget(self) -> int:
        """Most tokens of one forward pass."""
        return self._token_budget or tokens_per_pass(self._model.device, packed=self.packs)

    @property
    def _longest(self) -> int | None:
        """Most tokens of a text."""
        longest = self.encoder.max_seq_length or self._tokenizer.model_max_length
        # Of a tokeniser without a limit it is a number too large for the library.
        return longest if longest < _NO_LIMIT else None

    def _take_prompt(self, prompt: str) -> None:
        self.prompt = prompt
        if self._transformer is None:
            self._prompt_tokens = len(prompt_ids(self._tokenizer, prompt, max_length=self._longest))
            return
        features = self._transformer.preprocess(list(_PROBE), prompt=prompt or None)
        self._prompt_length = features.get("prompt_length")
        self._prompt_tokens = int(torch.as_tensor(self._prompt_length or 0).flatten()[0])
        ids, mask = (features[name].cpu() for name in ("input_ids", "attention_mask"))
        if [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)] != self.tokenise(_PROBE):
            under = f" under the prompt {prompt!r}" if prompt else ""
            raise EncodingError(
                f"sentence-transformers gives the encoder other tokens than its tokeniser does{under}; has it a chat template?"
            )

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of every text under the prompt, cut at its limit; one without a row is an EncodingError."""
        rows = token_ids(self._tokenizer, texts, prompt=self.prompt, max_length=self._longest)
        for text, row in zip(texts, rows, strict=True) if len(self._tokenizer) > self._rows else ():
            if max(row, default=0) >= self._rows:
                token = self._tokenizer.convert_ids_to_tokens(max(row))
                raise EncodingError(
                    f"the tokeniser gives {text[:40]!r} the token {token!r} ({max(row)}), and the model's embedding has "
                    f"{self._rows} rows; leave such texts out"
                )
        return rows

    def encode(self, texts: Sequence[str], advance: Callable[[float], None] = lambda amount: None) -> NDArray[np.float32]:
        """Return the vectors of ``texts`` in their order: (text, dim) float32; see ``encode_rows``."""
        return self.encode_rows(self.tokenise(texts), advance)

    @torch.inference_mode()
    def encode_rows(
        self, rows: Sequence[Sequence[int]], advance: Callable[[float], None] = lambda amount: None
    ) -> NDArray[np.float32]:
        """Return the vectors of tokenised texts in their order: (text, dim) float32. Equal texts are computed once.

        ``advance`` is called with the number of tokens after each batch. A vector that is not finite is an EncodingError.
        """
        different, places = distinct(map(tuple, rows))
        times = np.bincount(np.asarray(places, dtype=np.int64), minlength=len(different))
        found = np.empty((len(different), self.dimension), dtype=np.float32)
        # For a query alone it is not worth finding out what the model can take. A text without a token of its own is nothing
        # to pool, which only the padded form can tell.
        packs = len(different) > 1 and self.packs
        bare = [place for place, row in enumerate(different) if not packs or len(row) <= self._prompt_tokens]
        packed = [place for place, row in enumerate(different) if packs and len(row) > self._prompt_tokens]
        first = 0 if getattr(self.encoder, "include_prompt", True) else self._prompt_tokens
        with packable(self._model) if packs else nullcontext():
            for chosen, end_to_end in ((packed, True), (bare, False)):
                batches = make_batches(
                    self._model,
                    [TokenRow(different[place], first) for place in chosen],
                    token_budget=self._token_budget or tokens_per_pass(self._model.device, packed=packs),
                    packed=end_to_end,
                    # For a text alone the direction need not be found out: with a mask it is as in sentence-transformers.
                    masked=len(different) == 1 or not self.is_causal,
                    pad_id=self._tokenizer.pad_token_id or 0,
                )
                for batch in batches:
                    of_batch = [chosen[place] for place in batch.places]
                    found[of_batch] = self._vectors(batch)
                    advance(float(sum(times[place] * len(different[place]) for place in of_batch)))
        return found if len(different) == len(rows) else found[places]

    def _vectors(self, batch: Batch) -> NDArray[np.float32]:
        states = batch.run(self._model).float()
        found = (self._read_out if self._transformer is None else self._read_out_by_modules)(batch, states)[:, : self.dimension]
        found = normalize(found, dim=1) if self._normalises_again else found
        vectors: NDArray[np.float32] = found.float().cpu().numpy()
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(bad):
            text = self._tokenizer.decode(list(batch.rows[bad[0]].ids)[:12])
            raise EncodingError(f"NaN or infinity in the vector of {text!r}...; {nan_remedy(self._model.dtype)}")
        return vectors

    def _read_out(self, batch: Batch, states: Tensor) -> Tensor:
        """Return the vectors of a batch's states as a ``PlainEncoder`` makes them."""
        encoder: Any = self.encoder
        pooled = batch.pooler(poolings.get(encoder.pooling))(states)
        return read_out(pooled, encoder.heads, normalize=encoder.normalize)

    def _read_out_by_modules(self, batch: Batch, states: Tensor) -> Tensor:
        """Return the vectors of a batch's states as sentence-transformers' modules make them."""
        features: dict[str, Any] = {"token_embeddings": states}
        if batch.packed:
            features[BOUNDS] = batch.inputs[BOUNDS]
        else:
            features |= {"attention_mask": batch.real.long(), "input_ids": batch.inputs["input_ids"]}
        if self._prompt_length is not None:
            features["prompt_length"] = self._prompt_length
        for module in self._behind:
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        return vectors


def _check_stock(encoder: SentenceTransformer) -> None:
    """Refuse a SentenceTransformer whose vectors could be others than those that its modules make of its tokeniser's tokens."""
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


def set_limit(encoder: AnyEncoder, max_length: int) -> None:
    """Let an encoder read texts of so many tokens, fewer or more than it has by itself.

    Raises:
        ConfigError: The model has fewer positions, and the encoder reads fewer by itself; of one that does not say how many
            positions it has, nothing is known.
    """
    inner = encoder.transformers_model
    if inner is not None and getattr(inner.config, "max_position_embeddings", None) is not None:
        most = max(int(context_length(inner) * rope_factor(inner.config)), encoder.max_seq_length or 0)
        if max_length > most:
            raise ConfigError(f"max_length is {max_length}, and the model has {most} positions; give at most so many")
    encoder.max_seq_length = max_length


def prompted_engine(
    encoder: AnyEncoder,
    *,
    prompt: str,
    max_length: int | None = None,
    dimensions: int | None = None,
    token_budget: int | None = None,
) -> Engine:
    """Return an engine for texts behind a prompt by its name: query, document, none, or another of the encoder's.

    The encoder's limit on length becomes ``max_length`` tokens; the other arguments are those of ``Engine``.

    Raises:
        EncodingError: The encoder has no such prompt, or fewer dimensions.
        ConfigError: Texts may be longer than the model has positions.
    """
    if max_length is not None:
        set_limit(encoder, max_length)
    if prompt not in (*_USUAL, *encoder.prompts):
        raise EncodingError(f"the encoder has no prompt {prompt!r}{did_you_mean(prompt, list(encoder.prompts))}")
    if dimensions is not None and dimensions > (encoder.get_embedding_dimension() or 0):
        raise EncodingError(f"dimensions {dimensions}: the encoder has {encoder.get_embedding_dimension()}")
    return Engine(encoder, token_budget=token_budget, prompt=encoder.prompts.get(prompt) or "", dimensions=dimensions)
