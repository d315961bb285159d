"""The residual stream before and after every sub-layer, seen by hooks while a model runs as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from prune2vec.models.families import Family, SubLayers, block_list, states_of
from prune2vec.models.kept import ATTENTION, BLOCK, MLP

See = Callable[[int, str, Tensor, Tensor], None]
"""Takes block number, kind of sub-layer, and the stream before and after it, (batch, seq, dim) in the model's dtype."""


@contextmanager
def sub_layer_states(model: PreTrainedModel, family: Family, parts: SubLayers, see: See) -> Iterator[None]:
    """Hook every block as ``watch_block`` does while the context is open; the blocks of a cut model may lack sub-layers."""
    with ExitStack() as stack:
        for number, block in enumerate(block_list(model, family)):
            for handle in watch_block(number, block, parts, see):
                stack.callback(handle.remove)
        yield


def watch_block(number: int, block: nn.Module, parts: SubLayers, see: See) -> list[RemovableHandle]:
    """Call ``see`` for attention, MLP and whole of a block in every forward pass, until the caller removes the hooks.

    Where attention and MLP follow each other, the stream between them is read off where the MLP's side receives it, so
    that scales on either branch are in it. Where both read the block's input, each is taken by itself: the input, and
    the input plus what that sub-layer returns. ``see`` should keep nothing of the states' size.
    """
    held: dict[str, Tensor] = {}

    def keep_input(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            states = args[0] if args else kwargs["hidden_states"]
            # OPT lays batch and sequence together on the MLP's side of its block.
            held[name] = states.reshape(held["in"].shape) if name == "between" else states

        return hook

    def keep_output(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            held[name] = states_of(output)

        return hook

    def end(module: nn.Module, args: Any, output: Any) -> None:
        before, after = held["in"], states_of(output)
        if parts.between is not None:
            see(number, ATTENTION, before, held["between"])
            see(number, MLP, held["between"], after)
        else:
            see(number, ATTENTION, before, before + held[ATTENTION])
            see(number, MLP, before, before + held[MLP])
        see(number, BLOCK, before, after)
        held.clear()

    handles = [block.register_forward_pre_hook(keep_input("in"), with_kwargs=True)]
    if parts.between is not None:
        between = block.get_submodule(parts.between)
        handles.append(between.register_forward_pre_hook(keep_input("between"), with_kwargs=True))
    else:
        for kind, path in ((ATTENTION, parts.attention), (MLP, parts.mlp[-1])):
            handles.append(block.get_submodule(path).register_forward_hook(keep_output(kind)))
    return [*handles, block.register_forward_hook(end)]
