"""The token model's forward pass without waste: each distinct text of a batch once, and no padding.

The losses stay sentence-transformers' and ask their encoder for one column at a time. ``PackedLoss`` tells the encoder's token
model beforehand which columns will come, so that the first one asked for computes the distinct texts of all; equal texts
share one state, and so, where there is dropout, one draw. GradCache asks for parts of columns, which are computed as they
come. Pooling and all that follows is the encoder's own, on states laid end to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate, chain
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch import Tensor, nn

from prune2vec.errors import ConfigError
from prune2vec.forward.batches import token_states
from prune2vec.forward.memory_plan import tokens_per_pass
from prune2vec.forward.packed import BOUNDS, packable, row_bounds
from prune2vec.forward.packing import packing_obstacle
from prune2vec.models.rope import forget_longest_text
from prune2vec.models.tokens import distinct, longest_first
from prune2vec.training.adapters import base_model

Features = dict[str, Any]
Row = tuple[int, ...]
Packing = Literal["auto", "on", "off"]


class DistinctStates:
    """Final token states of rows, each distinct one computed once.

    Args:
        rows: Token ids of all rows that will be asked for.
        compute: Returns the states of given rows end to end, (tokens, dim); called once, longest row first.
    """

    def __init__(self, rows: Iterable[Row], compute: Callable[[Sequence[Row]], Tensor]) -> None:
        found, _ = distinct(rows)
        found = [found[place] for place in longest_first([len(row) for row in found])]
        self._begins = dict(zip(found, accumulate(map(len, found), initial=0), strict=False))
        self._states = compute(found)

    def of(self, rows: Sequence[Row]) -> Tensor:
        """Return the states of ``rows`` end to end, (tokens, dim)."""
        places = chain.from_iterable(range(self._begins[row], self._begins[row] + len(row)) for row in rows)
        return self._states.index_select(0, torch.tensor(list(places), device=self._states.device))


class PackedTransformer:
    """Takes the place of the forward method of an encoder's token model.

    Args:
        encoder: Its first module is a Transformer.
        packs: Whether the model can take packed rows; otherwise texts of similar length are padded together.
        token_budget: Most tokens of one forward pass; None is what suits the device.
    """

    def __init__(self, encoder: SentenceTransformer, *, packs: bool, token_budget: int | None = None) -> None:
        self._transformer: Any = encoder[0]
        self._plain = self._transformer.forward
        forget_longest_text(base_model(encoder))
        budget = token_budget or tokens_per_pass(encoder.device, packed=packs, training=True)
        self._compute = partial(token_states, base_model(encoder), token_budget=budget, packed=packs)
        self._columns: dict[int, list[Row]] = {}
        self._states: DistinctStates | None = None

    @contextmanager
    def expecting(self, columns: Iterable[Features]) -> Iterator[None]:
        """Compute the texts of all ``columns`` when the first of them is asked for, while the context is open."""
        texts = [column for column in columns if _is_text(column)]
        self._columns = {id(column["input_ids"]): _rows(column) for column in texts}
        try:
            yield
        finally:
            self._columns, self._states = {}, None

    def __call__(self, features: Features, **kwargs: Any) -> Features:
        """Return ``features`` with the states of their tokens end to end, and where each text begins."""
        if not _is_text(features):
            return dict(self._plain(features, **kwargs))
        rows = self._columns.get(id(features["input_ids"]))
        if rows is None:
            rows = _rows(features)
            states = DistinctStates(rows, self._compute)
        else:
            states = self._states = self._states or DistinctStates(chain(*self._columns.values()), self._compute)
        return {**features, "token_embeddings": states.of(rows)[None], BOUNDS: row_bounds(rows, features["input_ids"].device)}


class PackedLoss(nn.Module):
    """A loss whose encoders compute each distinct text of a batch once.

    Args:
        loss: Any loss over columns of texts.
        passes: The token models of its encoders.
    """

    def __init__(self, loss: nn.Module, passes: Sequence[PackedTransformer]) -> None:
        super().__init__()
        self.loss = loss
        self._passes = passes

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> Any:
        """Return what the loss returns."""
        columns = list(sentence_features)
        with ExitStack() as stack:
            for one in self._passes:
                stack.enter_context(one.expecting(columns))
            stack.enter_context(column_merging_disabled())
            return self.loss(columns, labels)


@contextmanager
def without_padding(
    loss: nn.Module, encoders: Sequence[SentenceTransformer], asked: Packing, *, max_length: int
) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Spare the encoders padding and repeated texts while the context is open, backward passes included.

    Yields:
        The loss to train with, and what was decided: whether rows are ``packed``, and if not, what the ``obstacle`` is.

    Raises:
        ConfigError: ``asked`` is ``"on"``, and the model cannot take packed rows.
    """
    if asked == "off":
        yield loss, {"packed": False, "obstacle": "not wanted"}
        return
    obstacles = [packing_obstacle(base_model(encoder), max_length=max_length) for encoder in encoders]
    if obstacles[0] and asked == "on":
        raise ConfigError(f"packing: {obstacles[0]}; set packing to auto")
    with ExitStack() as stack:
        passes = [
            stack.enter_context(token_pass(encoder, packs=not obstacle))
            for encoder, obstacle in zip(encoders, obstacles, strict=True)
        ]
        yield PackedLoss(loss, passes), {"packed": not obstacles[0], "obstacle": obstacles[0] or None}


@contextmanager
def token_pass(encoder: SentenceTransformer, *, packs: bool, token_budget: int | None = None) -> Iterator[PackedTransformer]:
    """Run an encoder's token model on packed rows, or on padded ones sorted by length, while the context is open."""
    transformer: Any = encoder[0]
    with ExitStack() as stack:
        if packs:
            stack.enter_context(packable(base_model(encoder)))
        transformer.forward = made = PackedTransformer(encoder, packs=packs, token_budget=token_budget)
        try:
            yield made
        finally:
            del transformer.forward


def _is_text(features: Features) -> bool:
    """Whether features are padded texts of which each has a token that is pooled: the rest is left to the library."""
    mask = features.get("attention_mask")
    if "input_ids" not in features or not isinstance(mask, Tensor) or mask.ndim != 2:
        return False
    prompt = torch.as_tensor(features.get("prompt_length", 0)).flatten()[0]
    return bool(mask.sum(dim=1).min() > prompt.to(mask.device))


def _rows(features: Features) -> list[Row]:
    ids, mask = features["input_ids"].tolist(), features["attention_mask"].tolist()
    return [tuple(token for token, seen in zip(*row, strict=True) if seen) for row in zip(ids, mask, strict=True)]
