"""fp32 arithmetic with weights that stay in half precision: only the block that runs is held in fp32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.models.families import block_list, find_family


@contextmanager
def computing_in_float32(model: PreTrainedModel) -> Iterator[None]:
    """Let a model compute in fp32 while the context is open, as ``model.float()`` would, in little more memory than it has.

    Halves convert to fp32 exactly, so the results are those of the converted model. A block's weights are converted while
    it runs, of the embeddings only the rows that are looked up.

    Args:
        model: A base model, on any device; its weights are again what they were afterwards.
    """
    halves = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.dtype in (torch.bfloat16, torch.float16)]
    if not halves:
        yield
        return
    embeddings = model.get_input_embeddings()
    blocks = list(block_list(model, find_family(model, model.config)))
    apart = {id(parameter) for module in (embeddings, *blocks) for parameter in module.parameters()}
    rest = _Converted([tensor for tensor in halves if id(tensor) not in apart])
    while_running = [(embeddings, _Rows(embeddings)), *((block, _Converted(list(block.parameters()))) for block in blocks)]
    handles = []
    for module, weights in while_running:
        handles.append(module.register_forward_pre_hook(weights.convert))
        # Whether the module returns or fails.
        handles.append(module.register_forward_hook(weights.restore, always_call=True))
    try:
        rest.convert()
        yield
    finally:
        rest.restore()
        for handle in handles:
            handle.remove()


class _Converted:
    """Parameters and buffers that are fp32 for a while; its methods are hooks."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._parameters = parameters
        self._stored: list[Tensor] = []

    def convert(self, module: nn.Module | None = None, args: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Convert them; the arguments of the module's call stay what they are."""
        self._stored = [parameter.data for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.data = parameter.data.float()
        return args

    def restore(self, *call: Any) -> None:
        """Put back the stored values; nothing to do when they are there."""
        for parameter, stored in zip(self._parameters, self._stored, strict=False):
            parameter.data = stored
        self._stored = []


class _Rows(_Converted):
    """The rows of an embedding that a call looks up; the ids are numbered anew among them."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(list(module.parameters()))
        self._module: Any = module
        self._padding: int | None = getattr(module, "padding_idx", None)

    def convert(self, module: nn.Module | None = None, args: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        """Convert the rows of the ids in ``args``."""
        if not args or len(self._parameters) != 1 or not isinstance(args[0], Tensor):
            return super().convert(module, args)
        rows, numbers = args[0].unique(return_inverse=True)
        (weight,) = self._parameters
        self._stored = [weight.data]
        weight.data = weight.data[rows].float()
        # It concerns gradients only, but its range is checked.
        self._module.padding_idx = None
        return (numbers, *args[1:])

    def restore(self, *call: Any) -> None:
        """Put back the whole embedding."""
        self._module.padding_idx = self._padding
        super().restore()
