"""A model's final states at several depths of one forward pass, with their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.models.families import block_list, final_modules, find_family, states_of


@contextmanager
def states_at(model: PreTrainedModel, depths: Sequence[int]) -> Iterator[None]:
    """Let a model return the final states of its cuts to ``depths`` side by side, (..., depths * dim), while the context is open.

    Block k's output through what comes after the last block is what the model of the first k blocks returns (L3Prune, section 3;
    ``self_test`` checks it).

    Args:
        model: A base model.
        depths: Numbers of leading blocks, 1 to all of them.
    """
    family = find_family(model, model.config)
    blocks, finals = block_list(model, family), final_modules(model, family)
    seen: dict[int, Tensor] = {}

    # Where activations are computed anew in the backward pass, a block's hook runs within that: it must compute nothing itself.
    def note(depth: int, module: nn.Module, args: Any, output: Any) -> None:
        seen[depth] = states_of(output)

    def side_by_side(*args: Any, **kwargs: Any) -> Any:
        output, found = plain(*args, **kwargs), []
        for depth in depths:
            states = output.last_hidden_state
            if depth < len(blocks):
                states = seen.pop(depth)
                for final in finals:
                    states = final(states)
            found.append(states)
        output.last_hidden_state = torch.cat(found, dim=-1)
        return output

    with ExitStack() as stack:
        for depth in depths:
            if depth < len(blocks):
                stack.callback(blocks[depth - 1].register_forward_hook(partial(note, depth)).remove)
        # No hook: sentence-transformers calls the method itself.
        plain, model.forward = model.forward, side_by_side
        stack.callback(vars(model).pop, "forward")
        yield
