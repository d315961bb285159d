"""Whether the activations of a run fit into memory, measured on the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from prune2vec.machine import free_memory_bytes
from prune2vec.training.adapters import base_model

_SHARE = 0.6
_SAMPLE_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Whether activations are recomputed, and why.

    Attributes:
        on: Whether gradient checkpointing is used.
        activation_bytes: What the largest batch's activations would take without it; None when nobody asked.
        free_bytes: Free memory at the start.
    """

    on: bool
    activation_bytes: int | None = None
    free_bytes: int | None = None


def choose_checkpointing(
    encoder: SentenceTransformer,
    asked: Literal["auto", "on", "off"],
    largest: Sequence[Mapping[str, Any]],
    *,
    rows: int,
    padded: bool = True,
) -> Checkpointing:
    """Decide on gradient checkpointing, and switch it on if it is wanted or needed.

    Args:
        encoder: With its adapters.
        asked: ``auto`` needs it when the activations would take more than 60 % of the free memory.
        largest: The tokenised columns of the run's largest batch.
        rows: Rows of it that are in memory at a time.
        padded: Whether padding is computed too.
    """
    choice = Checkpointing(on=asked == "on")
    if asked == "auto":
        if padded:
            tokens = sum(int(column["input_ids"].shape[1]) * rows for column in largest)
        else:
            lengths = (column["attention_mask"].sum(dim=1) for column in largest)
            tokens = sum(int(found.sort(descending=True).values[:rows].sum()) for found in lengths)
        needed = round(activation_bytes_per_token(encoder, largest[-1], padded=padded) * tokens)
        free = free_memory_bytes(encoder.device)
        choice = Checkpointing(on=needed > _SHARE * free, activation_bytes=needed, free_bytes=free)
    if choice.on:
        model = base_model(encoder)
        # The newer name; the older one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        # Only reentrant checkpoints need it; it would draw frozen layers below the trained ones into the backward pass.
        if not model.get_input_embeddings().weight.requires_grad:
            model.disable_input_require_grads()
    return choice


def activation_bytes_per_token(encoder: SentenceTransformer, features: Mapping[str, Any], *, padded: bool = True) -> float:
    """Return what autograd keeps for the backward pass, per token, in a training pass over a few rows.

    Weights that it keeps do not count, as they are there anyhow, and tensors that share their memory count once.

    Args:
        encoder: As it will be trained.
        features: A tokenised column.
        padded: Whether padding is computed, and so counts as tokens.
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
