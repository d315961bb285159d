"""How many tokens fit: into one forward pass, and into the memory that a streamed run may use beside one block or two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from prune2vec.errors import ConfigError
from prune2vec.machine import readable_bytes
from prune2vec.models.families import Family, block_list


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """How a streamed run uses its memory.

    Attributes:
        prefetch: Whether the next block is read while this one computes.
        token_budget: Tokens that a batch may hold, padding included.
        states_in_memory: Whether the hidden states of all rows stay there.
    """

    prefetch: bool
    token_budget: int
    states_in_memory: bool


def plan_memory(
    *, memory: int, in_use: int, block: int, per_token: int, state: int, longest: int, tokens: int, token_budget: int
) -> MemoryPlan:
    """Decide how a streamed run uses its memory.

    A second block takes memory first, then a batch up to half of what is left, then the states.

    Args:
        memory: Bytes that may be used in all.
        in_use: Bytes in use already.
        block: Bytes of the largest block.
        per_token: Bytes that a batch needs for each of its tokens while it computes.
        state: Bytes of one token's hidden state in all variants of the model.
        longest: Tokens of the longest row.
        tokens: Tokens of all rows, padding included.
        token_budget: Tokens that a batch may hold at most, padding included.

    Raises:
        ConfigError: Not even one block and the longest row fit.
    """
    least = in_use + block + per_token * longest
    if memory < least:
        raise ConfigError(
            f"memory is {readable_bytes(memory)}, but one block and the longest text need {readable_bytes(least)} "
            f"({readable_bytes(in_use)} in use, block {readable_bytes(block)}); give more memory, or a smaller max_length or dtype"
        )
    prefetch = memory - in_use >= 2 * block + per_token * longest
    left = memory - in_use - (2 if prefetch else 1) * block
    whole_states = state * tokens
    for_batch = max(left - whole_states, left // 2) if whole_states < left else left
    budget = max(longest, min(token_budget, for_batch // per_token))
    return MemoryPlan(prefetch=prefetch, token_budget=budget, states_in_memory=whole_states + per_token * budget <= left)


def tokens_that_fit(*, memory: int, in_use: int, per_token: int, longest: int) -> int:
    """Return how many tokens a forward pass of a model in memory has room for; ``in_use`` includes the model.

    The arguments are those of ``plan_memory``; if not even the longest row fits, that is a ``ConfigError``.
    """
    least = in_use + per_token * longest
    if memory < least:
        raise ConfigError(
            f"memory is {readable_bytes(memory)}, but the model is in memory already and the longest text needs "
            f"{readable_bytes(least)} in all ({readable_bytes(in_use)} in use); give more memory, or --stream on"
        )
    return (memory - in_use) // per_token


def tokens_per_pass(device: torch.device, *, packed: bool, training: bool = False) -> int:
    """Return how many tokens a forward pass should hold where memory sets no limit, padding included.

    On a CPU short batches pad less, and activations stay in its caches; rows without padding take a call of the attention
    kernel for each length, so more of them go together. A GPU needs more to have work for all its units. In training all of a
    step's activations are kept anyhow, and smaller passes keep what else they need small.
    """
    if device.type == "cpu":
        return 4096 if packed else 1024
    return (32768 if packed else 8192) if training else 16384


def bytes_per_token(model: PreTrainedModel, family: Family) -> int:
    """Return an upper estimate of what one token needs while a block computes.

    Counted are ten states of the stream (input, queries, keys, values, output and copies), a dozen in fp32 (norms, and what
    observers make of them) and three of the widest matrix (gate, up and their product).
    """
    width, itemsize = int(model.config.hidden_size), model.dtype.itemsize
    matrices = [p for p in largest_block(model, family).parameters() if p.ndim > 1]
    widest = max((max(p.shape) for p in matrices), default=width)
    return width * (10 * itemsize + 12 * torch.float32.itemsize) + 3 * widest * itemsize


def parameter_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Return the bytes of a module's parameters in a dtype, whether they have values or not."""
    return sum(parameter.numel() for parameter in module.parameters()) * dtype.itemsize


def largest_block(model: PreTrainedModel, family: Family) -> nn.Module:
    """Return the block with the most parameters."""
    return max(block_list(model, family), key=lambda block: sum(parameter.numel() for parameter in block.parameters()))
