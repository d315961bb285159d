"""Checks made on every model that is loaded: its blocks are where we think, and it looks only backwards."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from prune2vec.errors import UnsupportedModel
from prune2vec.families import Family, block_list, final_modules
from prune2vec.surgery.cut import cut_model

_LENGTH = 12


def self_test(model: PreTrainedModel, family: Family) -> None:
    """Check on a few random tokens that the model is causal and that ``final_norm(block k)`` is the k-layer model.

    Raises:
        UnsupportedModel: One of the two does not hold; the message says where.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, max(2, model.config.vocab_size - 1), (2, _LENGTH), generator=generator).to(model.device)
    with torch.inference_mode():
        states, output = _block_states(model, family, ids)
        _check_causal(model, family, ids, states)
        _check_depths(model, family, ids, states, output)


def _block_states(model: PreTrainedModel, family: Family, ids: Tensor) -> tuple[list[Tensor], Tensor]:
    states: list[Tensor] = []

    def hook(module: object, args: object, output: object) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

    handles = [block.register_forward_hook(hook) for block in block_list(model, family)]
    try:
        output = model(input_ids=ids, use_cache=False)[0]
    finally:
        for handle in handles:
            handle.remove()
    return states, output


def _check_causal(model: PreTrainedModel, family: Family, ids: Tensor, states: list[Tensor]) -> None:
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % max(2, model.config.vocab_size - 1)
    others, _ = _block_states(model, family, changed)
    for layer, (before, after) in enumerate(zip(states, others, strict=True)):
        if not _close(before[:, :-1], after[:, :-1]):
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
        if not _close(expected, cut):
            difference = (expected - cut).abs().max().item()
            raise UnsupportedModel(
                f"{model.config.model_type}: the final norm on block {depth} of {len(states)} differs by {difference:.2g} from the "
                f"model cut to {depth} layers; its structure is not understood"
            )
    if not all(a.shape == b.shape for a, b in pairwise(states)):
        raise UnsupportedModel(f"{model.config.model_type}: its blocks return states of different shapes")


def _close(a: Tensor, b: Tensor) -> bool:
    """Compare within rounding; NaN equals NaN here, since bad weights are reported where they are measured."""
    tolerance = 1e-4 if a.dtype == torch.float32 else 3e-2
    scale = max(1.0, torch.nan_to_num(a).abs().max().item())
    return bool(torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance * scale, equal_nan=True))
