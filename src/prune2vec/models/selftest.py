"""Checks on the model itself: its blocks and their parts are where we think, and it looks only backwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel, reason_of
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import cut_model
from prune2vec.models.families import Family, block_list, final_modules
from prune2vec.models.kept import Kept
from prune2vec.models.sublayer_states import ATTENTION, BLOCK, MLP, states_of, sub_layer_states
from prune2vec.models.sublayers import SubLayers

Outputs = dict[tuple[int, str], tuple[Tensor, Tensor]]
"""The stream before and after a sub-layer, by block number and kind."""

_ROWS, _LENGTH = 2, 12
TOKENS = _ROWS * _LENGTH
"""Tokens that the tests run through the model at once."""
_REMEDY = "its parts are not understood, so cut whole layers of it"


def self_test(model: PreTrainedModel, family: Family) -> None:
    """Check on a few random tokens that the model is causal and that ``final_norm(block k)`` is the k-layer model.

    Raises:
        UnsupportedModel: One of the two does not hold; the message says where.
    """
    ids = random_ids(model)
    with torch.inference_mode():
        states, output = block_states(model, family, ids)
        if states[0].shape[:2] != ids.shape:
            raise UnsupportedModel(
                f"{model.config.model_type} cannot be cut: its blocks pass on {list(states[0].shape)} for {list(ids.shape)} tokens, "
                "several states a token instead of one"
            )
        _check_causal(model, family, ids, states)
        _check_depths(model, family, ids, states, output)


@torch.inference_mode()
def is_causal(model: PreTrainedModel) -> bool:
    """Return whether the states of early tokens are the same whatever comes after them.

    Such a model needs no attention mask for rows that are padded on the right.
    """
    ids = random_ids(model)
    one, two = (model(input_ids=x, use_cache=False)[0][:, :-1].float() for x in (ids, _with_another_end(model, ids)))
    # Rows of one shape are computed alike in any number format, so the two differ by next to nothing.
    return bool(torch.allclose(one, two, rtol=1e-4, atol=1e-4 * one.abs().max().item(), equal_nan=True))


def check_sub_layers(model: PreTrainedModel, family: Family) -> SubLayers:
    """Check on a few random tokens that single sub-layers can go, and return the parts of the model's blocks.

    In the first, a middle and the last block: without both sub-layers the block passes its input on unchanged; without
    the MLP alone it returns what the whole model has between attention and MLP; without attention alone it makes of that
    what the whole model makes of it. A model of one block passes, as nothing in it can go.

    Raises:
        UnsupportedModel: The parts are not known, or one of the three does not hold.
    """
    parts = sub_layers_of(model)
    count = len(block_list(model, family))
    if count < 2:
        return parts
    ids = random_ids(model)
    try:
        with torch.inference_mode():
            whole = _sub_layer_outputs(model, family, parts, ids)
            for layer in sorted({0, count // 2, count - 1}):
                _check_block(model, family, parts, ids, layer, whole)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = reason_of(error)
        raise UnsupportedModel(
            f"{model.config.model_type} does not run without single sub-layers ({reason}); {_REMEDY}"
        ) from error
    return parts


def _check_block(model: PreTrainedModel, family: Family, parts: SubLayers, ids: Tensor, layer: int, whole: Outputs) -> None:
    after_attention = whole[layer, ATTENTION][1]
    every = tuple(range(len(block_list(model, family))))
    name = f"{model.config.model_type}: block {layer}"
    empty = cut_model(model, Kept(layers=every, drop_attention=(layer,), drop_mlp=(layer,)), share=True)
    before, after = _sub_layer_outputs(empty, family, parts, ids)[layer, BLOCK]
    if not torch.allclose(before, after, rtol=0, atol=0, equal_nan=True):
        raise UnsupportedModel(f"{name} without attention and MLP changes its input; {_REMEDY}")
    no_mlp = cut_model(model, Kept(layers=every, drop_mlp=(layer,)), share=True)
    _, without = _sub_layer_outputs(no_mlp, family, parts, ids)[layer, BLOCK]
    if not close(without, after_attention):
        difference = (without - after_attention).abs().max().item()
        raise UnsupportedModel(
            f"{name} without its MLP differs by {difference:.2g} from the stream after its attention; {_REMEDY}"
        )
    # Given what attention left, the rest of the block must do what it did; where both read the same input, it is the MLP alone.
    parallel = parts.between is None
    expected = whole[layer, MLP][1] if parallel else whole[layer, BLOCK][1]
    no_attention = cut_model(model, Kept(layers=every, drop_attention=(layer,)), share=True)
    with _given(block_list(no_attention, family)[layer], None if parallel else after_attention):
        _, rest = _sub_layer_outputs(no_attention, family, parts, ids)[layer, BLOCK]
    if not close(rest, expected):
        difference = (rest - expected).abs().max().item()
        raise UnsupportedModel(f"{name} without its attention differs by {difference:.2g} from its MLP's part; {_REMEDY}")


@contextmanager
def _given(block: nn.Module, states: Tensor | None) -> Iterator[None]:
    """Let a block get these states instead of its input, unless None, while the context is open."""

    def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if states is None:
            return None
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    handle = block.register_forward_pre_hook(give, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _sub_layer_outputs(model: PreTrainedModel, family: Family, parts: SubLayers, ids: Tensor) -> Outputs:
    seen: Outputs = {}

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        seen[layer, kind] = (before, after)

    with sub_layer_states(model, family, parts, see):
        model(input_ids=ids, use_cache=False)
    return seen


def random_ids(model: PreTrainedModel) -> Tensor:
    """Return two rows of random token ids on the model's device, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, max(2, model.config.vocab_size - 1), (_ROWS, _LENGTH), generator=generator).to(model.device)


def _with_another_end(model: PreTrainedModel, ids: Tensor) -> Tensor:
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % max(2, model.config.vocab_size - 1)
    return changed


def block_states(model: PreTrainedModel, family: Family, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the states after each block, and the model's output."""
    states: list[Tensor] = []

    def hook(module: object, args: object, output: object) -> None:
        states.append(states_of(output))

    handles = [block.register_forward_hook(hook) for block in block_list(model, family)]
    try:
        output = model(input_ids=ids, use_cache=False)[0]
    finally:
        for handle in handles:
            handle.remove()
    return states, output


def _check_causal(model: PreTrainedModel, family: Family, ids: Tensor, states: list[Tensor]) -> None:
    others, _ = block_states(model, family, _with_another_end(model, ids))
    for layer, (before, after) in enumerate(zip(states, others, strict=True)):
        if not close(before[:, :-1], after[:, :-1]):
            raise UnsupportedModel(
                f"{model.config.model_type} is not a decoder-only model: at layer {layer} an early token sees a later one"
            )


def _check_depths(model: PreTrainedModel, family: Family, ids: Tensor, states: list[Tensor], output: Tensor) -> None:
    finals = final_modules(model, family)
    depths = sorted({1, (len(states) + 1) // 2, len(states)})
    for depth in depths:
        expected = states[depth - 1]
        for final in finals:
            expected = final(expected)
        whole = depth == len(states)
        cut = output if whole else cut_model(model, range(depth), share=True)(input_ids=ids, use_cache=False)[0]
        if not close(expected, cut):
            difference = (expected - cut).abs().max().item()
            raise UnsupportedModel(
                f"{model.config.model_type}: the final norm on block {depth} of {len(states)} differs by {difference:.2g} from the "
                f"model cut to {depth} layers; its structure is not understood"
            )
    if not all(a.shape == b.shape for a, b in pairwise(states)):
        raise UnsupportedModel(f"{model.config.model_type}: its blocks return states of different shapes")


def close(a: Tensor, b: Tensor) -> bool:
    """Compare within rounding; NaN equals NaN here, since bad weights are reported where they are measured."""
    tolerance = 1e-4 if a.dtype == torch.float32 else 3e-2
    scale = max(1.0, torch.nan_to_num(a).abs().max().item())
    return bool(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance * scale, equal_nan=True))
