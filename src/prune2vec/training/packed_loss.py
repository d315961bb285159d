"""The token model's forward pass without waste: each distinct text of a batch once, and no padding.

The losses stay sentence-transformers' and ask their encoder for one column at a time. ``PackedLoss`` tells the encoder's token
model beforehand which columns will come, so that the first one asked for computes the distinct texts of all; equal texts
share one state, and so, where there is dropout, one draw. GradCache asks for parts of columns, which are computed as they
come. Pooling and all that follows is the encoder's own, on states laid end to end.

Whether the activations of a run fit into memory is measured on the model itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, chain
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.merged_forward import column_merging_disabled
from torch import Tensor, nn

from prune2vec.errors import ConfigError
from prune2vec.forward.batches import forget_longest_text, packing_obstacle, token_states
from prune2vec.forward.memory_plan import tokens_per_pass
from prune2vec.forward.packed import BOUNDS, packable, row_bounds
from prune2vec.machine import free_memory_bytes
from prune2vec.models.tokens import distinct, longest_first
from prune2vec.training.adapters import base_model
from prune2vec.training.lora_product import fused_lora

Features = dict[str, Any]
Row = tuple[int, ...]
Packing = Literal["auto", "on", "off"]

# Of the free memory, for the activations of the largest batch; they are measured on a few rows.
_SHARE = 0.6
_SAMPLE_ROWS = 2
_PER_TRAINED = 12  # Bytes a trained number needs beside itself: its gradient and Adam's two states, in fp32.


class PackedTransformer:
    """Takes the place of the forward method of an encoder's token model.

    Args:
        encoder: Its first module is a Transformer.
        packs: Whether the model can take packed rows; otherwise texts of similar length are padded together.
        token_budget: Most tokens of one forward pass; None is what suits the device.
    """

    def __init__(self, encoder: SentenceTransformer, *, packs: bool, token_budget: int | None = None) -> None:
        transformer: Any = encoder[0]
        self._plain = transformer.forward
        self._model = base_model(encoder)
        forget_longest_text(self._model)
        self._budget = token_budget or tokens_per_pass(encoder.device, packed=packs, training=True)
        self._packs = packs
        self._states: tuple[dict[Row, int], Tensor] | None = None
        self.expected: dict[int, list[Row]] = {}
        """By the address of a column's token ids, its rows: the first column asked for computes the texts of all."""

    def forget(self) -> None:
        """Let go of the columns that were expected, and of their states."""
        self.expected, self._states = {}, None

    def _computed(self, rows: Iterable[Row]) -> tuple[dict[Row, int], Tensor]:
        """Return the states of all distinct rows end to end, (tokens, dim), longest row first, and where each begins."""
        found, _ = distinct(rows)
        found = [found[place] for place in longest_first([len(row) for row in found])]
        begins = dict(zip(found, accumulate(map(len, found), initial=0), strict=False))
        return begins, token_states(self._model, found, token_budget=self._budget, packed=self._packs)

    def __call__(self, features: Features, **kwargs: Any) -> Features:
        """Return ``features`` with the states of their tokens end to end, and where each text begins."""
        rows = self.expected.get(id(features.get("input_ids")))
        if rows is None:
            rows = _text_rows(features)
            if rows is None:
                return dict(self._plain(features, **kwargs))
            begins, states = self._computed(rows)
        else:
            begins, states = self._states = self._states or self._computed(chain(*self.expected.values()))
        places = chain.from_iterable(range(begins[row], begins[row] + len(row)) for row in rows)
        found = states.index_select(0, torch.tensor(list(places), device=states.device))
        return {**features, "token_embeddings": found[None], BOUNDS: row_bounds(rows, features["input_ids"].device)}


class PackedLoss(nn.Module):
    """Any loss of an encoder over columns of texts, whose token model (``computed``) computes each distinct text of a batch once."""

    def __init__(self, loss: nn.Module, encoder: SentenceTransformer, computed: PackedTransformer) -> None:
        super().__init__()
        self.loss = loss
        # The trainer asks for it: in several processes it puts what averages their gradients in the encoder's place, here and in
        # the loss.
        self.model = encoder
        self._computed = computed

    def forward(self, sentence_features: Iterable[Features], labels: Tensor | None) -> Any:
        """Return what the loss returns."""
        columns = list(sentence_features)
        rows = [(column, _text_rows(column)) for column in columns]
        self._computed.expected = {id(column["input_ids"]): found for column, found in rows if found is not None}
        try:
            with column_merging_disabled():
                return self.loss(columns, labels)
        finally:
            self._computed.forget()


@contextmanager
def without_padding(
    loss: nn.Module, encoder: SentenceTransformer, asked: Packing, *, max_length: int
) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """Spare the encoder padding and repeated texts while the context is open, backward passes included.

    Yields:
        The loss to train with, and what was decided: whether rows are ``packed``, and if not, what the ``obstacle`` is.

    Raises:
        ConfigError: ``asked`` is ``"on"``, and the model cannot take packed rows.
    """
    if asked == "off":
        yield loss, {"packed": False, "obstacle": "not wanted"}
        return
    obstacle = packing_obstacle(base_model(encoder), max_length=max_length)
    if obstacle and asked == "on":
        raise ConfigError(f"packing: {obstacle}; set packing to auto")
    with token_pass(encoder, packs=not obstacle) as computed:
        yield PackedLoss(loss, encoder, computed), {"packed": not obstacle, "obstacle": obstacle or None}


@contextmanager
def token_pass(encoder: SentenceTransformer, *, packs: bool, token_budget: int | None = None) -> Iterator[PackedTransformer]:
    """Run an encoder's token model on packed rows, or on padded ones sorted by length, while the context is open.

    Its LoRA layers are computed as ``fused_lora`` says.
    """
    transformer: Any = encoder[0]
    with ExitStack() as stack:
        if packs:
            stack.enter_context(packable(base_model(encoder)))
        stack.enter_context(fused_lora(base_model(encoder)))
        transformer.forward = made = PackedTransformer(encoder, packs=packs, token_budget=token_budget)
        try:
            yield made
        finally:
            del transformer.forward


def _text_rows(features: Features) -> list[Row] | None:
    """Return the rows of padded texts of which each has a token that is pooled; None for the rest, which is left to the library."""
    ids, mask = features.get("input_ids"), features.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or mask.ndim != 2:
        return None
    prompt = int(torch.as_tensor(features.get("prompt_length", 0)).flatten()[0])
    # Both at once: a copy from a GPU waits for all that it was given to do.
    both = zip(*torch.stack([ids, mask]).tolist(), strict=True)
    rows = [tuple(token for token, seen in zip(*row, strict=True) if seen) for row in both]
    return rows if all(len(row) > prompt for row in rows) else None


def choose_checkpointing(
    encoder: SentenceTransformer,
    asked: Literal["auto", "on", "off"],
    largest: Sequence[Mapping[str, Any]],
    *,
    rows: int,
    padded: bool = True,
) -> dict[str, Any]:
    """Decide on gradient checkpointing, and switch it on if it is wanted or needed.

    Args:
        encoder: With its adapters.
        asked: ``auto`` needs it when the activations would take more than 60 % of the free memory.
        largest: The tokenised columns of the run's largest batch.
        rows: Rows of it that are in memory at a time.
        padded: Whether padding is computed too.

    Returns:
        Whether it is ``on``, and for ``auto`` the ``activation_bytes`` of the largest batch without it, and the ``free_bytes``
        at the start, less what gradients and the optimiser will take; else None.
    """
    choice: dict[str, Any] = {"on": asked == "on", "activation_bytes": None, "free_bytes": None}
    if asked == "auto":
        if padded:
            tokens = sum(int(column["input_ids"].shape[1]) * rows for column in largest)
        else:
            lengths = (column["attention_mask"].sum(dim=1) for column in largest)
            tokens = sum(int(found.sort(descending=True).values[:rows].sum()) for found in lengths)
        needed = round(activation_bytes_per_token(encoder, largest[-1], padded=padded) * tokens)
        trained = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
        free = free_memory_bytes(encoder.device) - _PER_TRAINED * trained
        choice = {"on": needed > _SHARE * free, "activation_bytes": needed, "free_bytes": free}
    if choice["on"]:
        model = base_model(encoder)
        # The newer name; the older one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        # Only reentrant checkpoints need it; it would draw frozen layers below the trained ones into the backward pass.
        if not model.get_input_embeddings().weight.requires_grad:
            model.disable_input_require_grads()
    return choice


def activation_bytes_per_token(encoder: SentenceTransformer, features: Mapping[str, Any], *, padded: bool = True) -> float:
    """Return what autograd keeps for the backward pass, per token, in a training pass over a few rows of a tokenised column.

    Weights that it keeps do not count, as they are there anyhow, and tensors that share their memory count once. Padding
    counts as tokens if it is computed (``padded``).
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # So that no address is used twice.
        return tensor

    sample = {
        key: value[:_SAMPLE_ROWS].to(encoder.device) if isinstance(value, Tensor) else value for key, value in features.items()
    }
    tokens = sample["input_ids"].numel() if padded else int(sample["attention_mask"].sum())
    was_training = encoder.training
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder.train()(sample)
    encoder.train(was_training)
    return sum(kept.values()) / tokens
