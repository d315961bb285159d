"""What a model does before its first block, and what it gives to each block beside the states.

Position embeddings, masks and kinds of attention differ by family and by layer, so nothing here copies a forward pass:
the model's own runs, with blocks that note what they are called with and compute nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.sublayer_states import states_of

_REMEDY = "hold the whole model in memory instead (--stream off)"


@dataclass(frozen=True)
class BlockInputs:
    """What a block is called with beside the states.

    Attributes:
        args: The positional arguments after the states.
        kwargs: The named ones.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, block: nn.Module, states: Tensor) -> Tensor:
        """Return the states after ``block``."""
        return states_of(block(states, *self.args, **self.kwargs))


class _LastBlock(Exception):
    """Ends a forward pass at the last block: nothing after it is wanted."""


class _OtherForm(Exception):
    """A block was not given what the one before it returned."""


def block_inputs(
    model: PreTrainedModel, blocks: Iterable[nn.Module], inputs: dict[str, Tensor], shared: Shared | None = None
) -> tuple[Tensor, list[BlockInputs]]:
    """Run what comes before the first block, and return what that block receives and how every block is called.

    Args:
        model: The model; its blocks may be without values, what comes before them may not.
        blocks: Its blocks.
        inputs: What the model is called with.
        shared: Tensors noted in earlier calls, which equal ones are replaced by.

    Raises:
        UnsupportedModel: The blocks pass on more than their states.
    """
    kind, blocks = model.config.model_type, list(blocks)
    if getattr(model.config, "num_kv_shared_layers", 0):
        raise UnsupportedModel(f"{kind} cannot be streamed: later layers read keys and values of earlier ones; {_REMEDY}")
    for wrap in (False, True):
        try:
            states, calls = _noted(model, blocks, inputs, wrap=wrap)
        except _OtherForm:
            continue
        for layer, call in enumerate(calls):
            _check_call(call, f"{kind} cannot be streamed: its block {layer}")
        return states, (shared or Shared()).calls(calls)
    raise UnsupportedModel(f"{kind} cannot be streamed: it changes the states between its blocks; {_REMEDY}")


def _noted(
    model: PreTrainedModel, blocks: Sequence[nn.Module], inputs: dict[str, Tensor], *, wrap: bool
) -> tuple[Tensor, list[BlockInputs]]:
    first: list[Tensor] = []
    calls: list[BlockInputs] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        states: Tensor = args[0] if args else kwargs.pop("hidden_states")
        if first and states is not first[0]:
            raise _OtherForm
        first[:] = [states]
        calls.append(BlockInputs(tuple(args[1:]), kwargs))
        if len(calls) == len(blocks):
            raise _LastBlock
        return (states,) if wrap else states

    with _instead(blocks, note):
        try:
            model(**inputs, use_cache=False)
        except _LastBlock:
            return first[0], calls
    raise UnsupportedModel(f"{model.config.model_type} cannot be streamed: it does not run all of its blocks; {_REMEDY}")


@contextmanager
def _instead(blocks: Iterable[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let ``forward`` take the place of every block's own while the context is open."""
    try:
        for block in blocks:
            block.forward = forward
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)


def _check_call(call: BlockInputs, who: str) -> None:
    for name, value in (*enumerate(call.args, start=1), *call.kwargs.items()):
        if not _is_plain(value):
            raise UnsupportedModel(
                f"{who} is given a {type(value).__name__} ({name}), which may hold what earlier blocks left in it; {_REMEDY}"
            )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


class Shared:
    """Tensors that many calls have in common, held once.

    Rows of one width have equal positions and masks, and those of a narrow batch are the beginning of a wider one's.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, torch.dtype], list[Tensor]] = {}

    def calls(self, calls: Iterable[BlockInputs]) -> list[BlockInputs]:
        """Return the calls of one batch with every tensor replaced by an equal one that was seen before, if there is one."""
        batch: dict[int, Tensor] = {}
        return [BlockInputs(self._of(call.args, batch), self._of(call.kwargs, batch)) for call in calls]

    def _of(self, value: Any, batch: dict[int, Tensor]) -> Any:
        if isinstance(value, Tensor):
            # Many blocks are called with the very same ones.
            if id(value) not in batch:
                batch[id(value)] = self._tensor(value)
            return batch[id(value)]
        if isinstance(value, dict):
            return {key: self._of(item, batch) for key, item in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)([self._of(item, batch) for item in value])
        return value

    def _tensor(self, tensor: Tensor) -> Tensor:
        if tensor.ndim > 2 and tensor.shape[0] > 1 and torch.equal(tensor, tensor[:1].expand_as(tensor)):
            # A copy, as a view would keep all rows alive.
            return self._tensor(tensor[:1].clone()).expand_as(tensor)
        known = self._known.setdefault((tensor.ndim, tensor.dtype), [])
        for other in known:
            if all(mine <= theirs for mine, theirs in zip(tensor.shape, other.shape, strict=True)):
                begin = other[tuple(slice(size) for size in tensor.shape)]
                if torch.equal(begin, tensor):
                    return begin
        known.append(tensor)
        return tensor
