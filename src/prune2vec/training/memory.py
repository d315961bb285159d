"""Whether the activations of a run fit into memory, measured on the model itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from prune2vec.machine import peak_rss_bytes
from prune2vec.training.adapters import base_model

_SHARE = 0.6
_SAMPLE_ROWS = 2
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_MEMINFO = Path("/proc/meminfo")


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

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return asdict(self)


def choose_checkpointing(
    encoder: SentenceTransformer, asked: Literal["auto", "on", "off"], largest: Sequence[Mapping[str, Any]], *, rows: int
) -> Checkpointing:
    """Decide on gradient checkpointing, and switch it on if it is wanted or needed.

    Args:
        encoder: With its adapters.
        asked: ``auto`` needs it when the activations would take more than 60 % of the free memory.
        largest: The tokenised columns of the run's largest batch.
        rows: Rows of it that are in memory at a time.
    """
    choice = Checkpointing(on=asked == "on")
    if asked == "auto":
        padded = sum(int(column["input_ids"].shape[1]) for column in largest) * rows
        needed = round(activation_bytes_per_token(encoder, largest[-1]) * padded)
        free = free_memory_bytes(encoder.device)
        choice = Checkpointing(on=needed > _SHARE * free, activation_bytes=needed, free_bytes=free)
    if choice.on:
        model = base_model(encoder)
        # The newer name; the older one warns.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return choice


def activation_bytes_per_token(encoder: SentenceTransformer, features: Mapping[str, Any]) -> float:
    """Return what autograd keeps for the backward pass, per token, in a training pass over a few rows.

    Weights that it keeps do not count, as they are there anyhow, and tensors that share their memory count once.
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

    sample = {key: value[:_SAMPLE_ROWS] if isinstance(value, Tensor) else value for key, value in features.items()}
    sample = {key: value.to(encoder.device) if isinstance(value, Tensor) else value for key, value in sample.items()}
    tokens = sample["input_ids"].numel()
    was_training = encoder.training
    devices = [encoder.device] if encoder.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoder.train()(sample)
    encoder.train(was_training)
    return sum(kept.values()) / tokens


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory that is still to be had on ``device``; on the CPU, within the container's limit."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = _available_bytes()
    limit = _CGROUP_LIMIT.read_text(encoding="ascii").strip() if _CGROUP_LIMIT.exists() else ""
    return min(free, max(int(limit) - peak_rss_bytes(), 0)) if limit.isdigit() else free


def _available_bytes() -> int:
    lines = _MEMINFO.read_text(encoding="ascii").splitlines() if _MEMINFO.exists() else []
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    # Where the system does not say, half of what is built in.
    return found[0] if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
