"""The residual stream before and after every sub-layer, seen by hooks while a model runs as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from prune2vec.models.families import Family, block_list
from prune2vec.models.kept import KINDS
from prune2vec.models.sublayers import SubLayers

ATTENTION, MLP, BLOCK = KINDS
See = Callable[[int, str, Tensor, Tensor], None]
"""Takes block number, kind of sub-layer, and the stream before and after it, (batch, seq, dim) in the model's dtype."""


@contextmanager
def sub_layer_states(model: PreTrainedModel, family: Family, parts: SubLayers, see: See) -> Iterator[None]:
    """Call ``see`` for attention, MLP and whole of every block, in every forward pass while the context is open.

    Where attention and MLP follow each other, the stream between them is read off where the MLP's side receives it, so
    that scales on either branch are in it. Where both read the block's input, each is taken by itself: the input, and
    the input plus what that sub-layer returns. Only one block's states are held at a time.

    Args:
        model: The model; the blocks of one that was cut may lack sub-layers.
        family: Where its blocks are.
        parts: The parts of its blocks.
        see: Gets the states; it should keep nothing of their size.
    """
    handles: list[RemovableHandle] = []
    try:
        for number, block in enumerate(block_list(model, family)):
            handles += watch_block(number, block, parts, see)
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch_block(number: int, block: nn.Module, parts: SubLayers, see: See) -> list[RemovableHandle]:
    """Hook one block as ``sub_layer_states`` does all of them; the caller removes the hooks."""
    return _Watch(number, see).hooks(block, parts)


def states_of(output: Any) -> Tensor:
    """Return the states (batch, seq, dim) in what a block or a sub-layer returns: some families add other things to them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


class _Watch:
    """The states of one block during one forward pass."""

    def __init__(self, number: int, see: See) -> None:
        self._number = number
        self._see = see
        self._held: dict[str, Tensor] = {}

    def hooks(self, block: nn.Module, parts: SubLayers) -> list[RemovableHandle]:
        """Hook a block; in parallel ones the two sub-layers, else what lies between them."""
        first = block.register_forward_pre_hook(self._begin, with_kwargs=True)
        if parts.between is None:
            inner = [
                block.get_submodule(parts.attention).register_forward_hook(self._keep_output(ATTENTION)),
                block.get_submodule(parts.mlp[-1]).register_forward_hook(self._keep_output(MLP)),
            ]
            return [first, *inner, block.register_forward_hook(self._end_parallel)]
        between = block.get_submodule(parts.between).register_forward_pre_hook(self._keep_between, with_kwargs=True)
        return [first, between, block.register_forward_hook(self._end_sequential)]

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._held = {"in": _first(args, kwargs)}

    def _keep_between(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # OPT lays batch and sequence together on this side of its block.
        self._held["between"] = _first(args, kwargs).reshape(self._held["in"].shape)

    def _keep_output(self, kind: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            self._held[kind] = states_of(output)

        return hook

    def _end_sequential(self, module: nn.Module, args: Any, output: Any) -> None:
        held, self._held = self._held, {}
        self._see(self._number, ATTENTION, held["in"], held["between"])
        self._see(self._number, MLP, held["between"], states_of(output))
        self._see(self._number, BLOCK, held["in"], states_of(output))

    def _end_parallel(self, module: nn.Module, args: Any, output: Any) -> None:
        held, self._held = self._held, {}
        self._see(self._number, ATTENTION, held["in"], held["in"] + held[ATTENTION])
        self._see(self._number, MLP, held["in"], held["in"] + held[MLP])
        self._see(self._number, BLOCK, held["in"], states_of(output))


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Return the states that a module was called with."""
    states: Tensor = args[0] if args else kwargs["hidden_states"]
    return states
