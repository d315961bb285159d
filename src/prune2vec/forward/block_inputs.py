"""What a model does before its first block, and what it gives to each block beside the states.

Position embeddings, masks and kinds of attention differ by family and by layer, so nothing here copies a forward pass:
the model's own runs, with blocks that note what they are called with and compute nothing. Whether its blocks do alone what they
do within it is tested on a small model of real blocks: the first and the last one, and a few token ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.block_files import BlockFiles, built_on_meta, embedding_path
from prune2vec.models.cut import cut_config
from prune2vec.models.families import Family, block_list, in_block, states_of
from prune2vec.models.selftest import block_states, close, random_ids, self_test

_VOCABULARY = 64  # Of the probe.
_REMEDY = "hold the whole model in memory instead (--stream off)"


@dataclass(frozen=True)
class BlockInputs:
    """What a block is called with beside the states, which come before ``args``."""

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
    model: PreTrainedModel, blocks: Iterable[nn.Module], inputs: dict[str, Tensor], held: list[Tensor] | None = None
) -> tuple[Tensor, list[BlockInputs]]:
    """Run what comes before the first block, and return what that block receives and how every block is called.

    Args:
        model: The model; its blocks may be without values, what comes before them may not.
        blocks: Its blocks.
        inputs: What the model is called with.
        held: Tensors given out for earlier inputs, which equal ones are replaced by; new ones are added.

    Raises:
        UnsupportedModel: The blocks pass on more than their states.
    """
    who, blocks = f"{model.config.model_type} cannot be streamed", list(blocks)
    if getattr(model.config, "num_kv_shared_layers", 0):
        raise UnsupportedModel(f"{who}: later layers read keys and values of earlier ones; {_REMEDY}")
    # A model takes what its blocks return bare or in a tuple. The wrong one of the two reaches the next block changed.
    for wrap in (False, True):
        try:
            states, calls = _noted(model, blocks, inputs, wrap=wrap)
        except _OtherForm:
            continue
        for layer, call in enumerate(calls):
            for name, value in (*enumerate(call.args, start=1), *call.kwargs.items()):
                if not _is_plain(value):
                    raise UnsupportedModel(
                        f"{who}: its block {layer} is given a {type(value).__name__} ({name}), which may hold what earlier "
                        f"blocks left in it; {_REMEDY}"
                    )
        return states, _held_once(calls, held if held is not None else [])
    raise UnsupportedModel(f"{who}: it changes the states between its blocks; {_REMEDY}")


def _noted(
    model: PreTrainedModel, blocks: Sequence[nn.Module], inputs: dict[str, Tensor], *, wrap: bool
) -> tuple[Tensor, list[BlockInputs]]:
    first: list[Tensor] = []
    calls: list[BlockInputs] = []

    def note(*args: Any, **kwargs: Any) -> Any:
        states: Tensor = args[0] if args else kwargs.pop("hidden_states")
        # Blocks here return their input, so that every block but the first must be given that very tensor.
        if first and states is not first[0]:
            raise _OtherForm
        first[:] = [states]
        calls.append(BlockInputs(tuple(args[1:]), kwargs))
        if len(calls) == len(blocks):
            raise _LastBlock
        return (states,) if wrap else states

    # Set on the modules themselves, so that hooks and the class stay as they are, and taken off again below.
    try:
        for block in blocks:
            block.forward = note
        model(**inputs, use_cache=False)
    except _LastBlock:
        return first[0], calls
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
    raise UnsupportedModel(f"{model.config.model_type} cannot be streamed: it does not run all of its blocks; {_REMEDY}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (Tensor, bool, int, float, str))


def _held_once(calls: Sequence[BlockInputs], held: list[Tensor]) -> list[BlockInputs]:
    """Return the calls of one batch with every tensor replaced by an equal one of ``held``, or added to it.

    The calls of all batches are held at once while a model is streamed. Rows of one width have equal positions and masks, and
    those of a narrow batch are the beginning of a wider one's.
    """
    of_batch: dict[int, Tensor] = {}

    def once(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        # Many blocks are called with the very same ones.
        if id(value) not in of_batch:
            of_batch[id(value)] = _equal_one(value, held)
        return of_batch[id(value)]

    return [BlockInputs(*tree_map(once, (call.args, call.kwargs))) for call in calls]


def _equal_one(tensor: Tensor, held: list[Tensor]) -> Tensor:
    if tensor.ndim > 2 and tensor.shape[0] > 1 and torch.equal(tensor, tensor[:1].expand_as(tensor)):
        # A copy, as a view would keep all rows alive.
        return _equal_one(tensor[:1].clone(), held).expand_as(tensor)
    for other in held:
        fits = other.dtype == tensor.dtype and other.ndim == tensor.ndim
        if fits and all(mine <= theirs for mine, theirs in zip(tensor.shape, other.shape, strict=True)):
            begin = other[tuple(slice(size) for size in tensor.shape)]
            if torch.equal(begin, tensor):
                return begin
    held.append(tensor)
    return tensor


def probe_model(
    model: PreTrainedModel, family: Family, files: BlockFiles, layers: Sequence[int], *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Return the model of these blocks (ascending) of ``model``, which has no values, with the values from its files."""
    vocabulary = min(_VOCABULARY, model.config.vocab_size)
    special = {name: getattr(model.config, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    # Beyond the small vocabulary they would be refused; below it RoBERTa's padding is where positions begin.
    below = {name: value if isinstance(value, int) and value < vocabulary else None for name, value in special.items()}
    changes = {"vocab_size": vocabulary, **below}
    config = cut_config(model.config, layers, changes=changes)
    probe = built_on_meta(config, files.dtype, files.device, trust_remote_code=trust_remote_code)
    embeddings = f"{embedding_path(probe)}.weight"
    rows = torch.arange(vocabulary)
    state = {}
    for name in probe.state_dict():
        place = in_block(name, family.blocks)
        original = name if place is None else f"{family.blocks}.{layers[place[0]]}.{place[1]}"
        state[name] = files.take(original, rows=rows if name == embeddings else None)
    probe.load_state_dict(state, strict=True, assign=True)
    return probe


@torch.inference_mode()
def check_probe(probe: PreTrainedModel, family: Family) -> bool:
    """Return whether a model is causal; ``UnsupportedModel`` if it is not understood, or its blocks do otherwise when alone."""
    causal = self_test(probe, family)
    ids = random_ids(probe)
    expected, _ = block_states(probe, family, ids)
    blocks = block_list(probe, family)
    states, calls = block_inputs(probe, blocks, {"input_ids": ids})
    for layer, (block, call) in enumerate(zip(blocks, calls, strict=True)):
        states = call.run(block, states)
        if not close(states, expected[layer]):
            raise UnsupportedModel(
                f"{probe.config.model_type} cannot be streamed: a block alone does not compute what it computes in the model; {_REMEDY}"
            )
    return causal
