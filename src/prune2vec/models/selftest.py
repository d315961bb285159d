"""Checks on the model itself: its blocks and their parts are where we think, and whether it looks only backwards."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel, reason_of
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import cut_model
from prune2vec.models.families import Family, SubLayers, block_list, final_modules, states_of, sub_layer_states
from prune2vec.models.kept import ATTENTION, BLOCK, MLP, Kept

Outputs = dict[tuple[int, str], tuple[Tensor, Tensor]]
"""The stream before and after a sub-layer, by block number and kind."""

_ROWS, _LENGTH = 2, 12
TOKENS = _ROWS * _LENGTH
"""Tokens that the tests run through the model at once."""
_UNCHANGED, _UNCHANGED_ROUNDED = 1e-4, 1e-2
_REMEDY = "its parts are not understood, so cut whole layers of it"


@torch.inference_mode()
def self_test(model: PreTrainedModel, family: Family) -> bool:
    """Check on a few random tokens that ``final_norm(block k)`` is the k-layer model, and return ``is_causal(model)``.

    Raises:
        UnsupportedModel: It does not hold, the message says where; or nobody can tell which way the model looks.
    """
    ids, kind = random_ids(model), model.config.model_type
    states, output = block_states(model, family, ids)
    if states[0].shape[:2] != ids.shape:
        raise UnsupportedModel(
            f"{kind} cannot be cut: its blocks pass on {list(states[0].shape)} for {list(ids.shape)} tokens, "
            "several states a token instead of one"
        )
    for depth in sorted({1, (len(states) + 1) // 2, len(states)}):
        expected = states[depth - 1]
        for final in final_modules(model, family):
            expected = final(expected)
        whole = depth == len(states)
        cut = output if whole else cut_model(model, range(depth), share=True)(input_ids=ids, use_cache=False)[0]
        if not close(expected, cut):
            raise UnsupportedModel(
                f"{kind}: {'the final norm on ' if family.final else ''}block {depth} of {len(states)} differs by "
                f"{_difference(expected, cut)} from the model cut to {depth} layers; its structure is not understood"
            )
    if len({state.shape for state in states}) > 1:
        raise UnsupportedModel(f"{kind}: its blocks return states of different shapes")
    return is_causal(model)


@torch.inference_mode()
def is_causal(model: PreTrainedModel) -> bool:
    """Return whether the states of early tokens are the same whatever comes after them; found out by changing a last token.

    Such a model needs no attention mask for rows that are padded on the right.

    Raises:
        UnsupportedModel: It is with an attention mask and is not without one, or the other way round: the attention of some
            classes takes the direction from ``config.is_causal`` in one of the two cases alone.
    """
    ids = random_ids(model)
    # The second row is shorter, so that a mask has something to hide.
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    plain, masked = (_looks_back(model, ids, given) for given in ({}, {"attention_mask": mask}))
    if plain != masked:
        raise UnsupportedModel(
            f"{model.config.model_type}: with an attention mask its tokens see those after them, and without one they do not"
            if plain
            else f"{model.config.model_type}: without an attention mask its tokens see those after them, and with one they do not"
        )
    return plain


def _looks_back(model: PreTrainedModel, ids: Tensor, given: dict[str, Tensor]) -> bool:
    changed = ids.clone()
    # Rows that were never trained may be alike: another id with the same one would change nothing.
    others = torch.cat([(ids[:1, -1] + 1) % max(2, model.config.vocab_size - 1), ids.flatten()])
    embed = model.get_input_embeddings()
    differs = (embed(others) != embed(ids[:1, -1])).any(dim=-1)
    changed[0, -1] = others[int(differs.int().argmax())]
    both = {name: torch.cat([tensor, tensor]) for name, tensor in given.items()}
    # On the CPU, as not every device has float64.
    states = model(input_ids=torch.cat([ids, changed]), use_cache=False, **both)[0][:, :-1].cpu().double()
    one, two = states[0], states[len(ids)]
    # Of the states' spread over the tokens, so that a dimension that is large everywhere hides nothing. Rows of one shape are
    # computed alike in any dtype; only experts, which are given other tokens then, round otherwise.
    spread = (one - one.mean(dim=0)).norm()
    # NaN is no sign of a direction; whoever reads the states names it.
    return bool((one - two).norm() <= (_UNCHANGED if model.dtype == torch.float32 else _UNCHANGED_ROUNDED) * spread)


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
    name, after_attention = f"{model.config.model_type}: block {layer}", whole[layer, ATTENTION][1]

    def without(*gone: str) -> PreTrainedModel:
        every = tuple(range(len(block_list(model, family))))
        attention, mlp = ((layer,) if kind in gone else () for kind in (ATTENTION, MLP))
        return cut_model(model, Kept(layers=every, drop_attention=attention, drop_mlp=mlp), share=True)

    before, after = _sub_layer_outputs(without(ATTENTION, MLP), family, parts, ids)[layer, BLOCK]
    if not torch.allclose(before, after, rtol=0, atol=0, equal_nan=True):
        raise UnsupportedModel(f"{name} without attention and MLP changes its input; {_REMEDY}")
    _, after = _sub_layer_outputs(without(MLP), family, parts, ids)[layer, BLOCK]
    if not close(after, after_attention):
        raise UnsupportedModel(
            f"{name} without its MLP differs by {_difference(after, after_attention)} from the stream after its attention; {_REMEDY}"
        )
    # Given what attention left, the rest of the block must do what it did; where both read the same input, it is the MLP alone.
    expected, rest = whole[layer, MLP if parts.between is None else BLOCK][1], without(ATTENTION)
    if parts.between is not None:
        block_list(rest, family)[layer].register_forward_pre_hook(
            lambda module, args, kwargs: (
                ((after_attention, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": after_attention})
            ),
            with_kwargs=True,
        )
    _, after = _sub_layer_outputs(rest, family, parts, ids)[layer, BLOCK]
    if not close(after, expected):
        raise UnsupportedModel(
            f"{name} without its attention differs by {_difference(after, expected)} from its MLP's part; {_REMEDY}"
        )


def _sub_layer_outputs(model: PreTrainedModel, family: Family, parts: SubLayers, ids: Tensor) -> Outputs:
    seen: Outputs = {}

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        seen[layer, kind] = (before, after)

    with sub_layer_states(model, family, parts, see):
        model(input_ids=ids, use_cache=False)
    return seen


def _difference(one: Tensor, other: Tensor) -> str:
    return f"{(one - other).abs().max().item():.2g}"


def random_ids(model: PreTrainedModel) -> Tensor:
    """Return two rows of random token ids on the model's device, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, max(2, model.config.vocab_size - 1), (_ROWS, _LENGTH), generator=generator).to(model.device)


def block_states(model: PreTrainedModel, family: Family, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the states after each block, and the model's output."""
    states: list[Tensor] = []
    with ExitStack() as stack:
        for block in block_list(model, family):
            handle = block.register_forward_hook(lambda module, args, output: states.append(states_of(output)))
            stack.callback(handle.remove)
        return states, model(input_ids=ids, use_cache=False)[0]


def close(a: Tensor, b: Tensor) -> bool:
    """Compare within rounding; NaN equals NaN here, since bad weights are reported where they are measured."""
    tolerance = 1e-4 if a.dtype == torch.float32 else 3e-2
    scale = max(1.0, torch.nan_to_num(a).abs().max().item())
    return bool(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance * scale, equal_nan=True))
