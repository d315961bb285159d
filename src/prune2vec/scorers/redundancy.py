"""EffiR's and LLM-Drop's importance of sub-layers (arXiv 2512.20612, 2406.15786): 1 - cos(x_in, x_out) on the residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from prune2vec.backbone.depths import pad_rows
from prune2vec.backbone.load import Backbone
from prune2vec.backbone.selftest import check_sub_layers
from prune2vec.backbone.sublayer_states import sub_layer_states
from prune2vec.backbone.tokens import TokenRow, length_batches
from prune2vec.errors import ProfileError
from prune2vec.families import block_list
from prune2vec.records.redundancy import KINDS, Redundancy
from prune2vec.scorers.groups import TokenGroup, distinct_rows, token_count
from prune2vec.scorers.registry import Advance, Found, Work, scorers
from prune2vec.scorers.settings import ProfileSettings
from prune2vec.sublayers import SubLayers

REDUNDANCY = "redundancy"


@scorers.register(REDUNDANCY)
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Importance of every attention, MLP and block on the retrieval texts (EffiR)."""
    parts, rows = check_sub_layers(backbone.model, backbone.family), distinct_rows(groups)

    def measure(advance: Advance, found: Found) -> Mapping[str, Any]:
        return redundancy(backbone, parts, rows, token_budget=settings.token_budget, advance=advance).to_json()

    return Work(token_count(groups), measure)


def redundancy(
    backbone: Backbone,
    parts: SubLayers,
    rows: Sequence[TokenRow],
    *,
    texts: str = "retrieval",
    token_budget: int = 8192,
    advance: Advance = lambda amount: None,
) -> Redundancy:
    """Return the importance of every sub-layer, as the mean over all tokens of ``rows``, in one forward pass a row.

    Tokens of instructions count, padding does not. A sub-layer that a cut has taken out comes out as 0.

    Args:
        backbone: The model.
        parts: The parts of its blocks.
        rows: Tokenised texts.
        texts: What they are, for the record.
        token_budget: Padded tokens in one forward pass.
        advance: Called with the number of tokens done.

    Raises:
        ProfileError: A state is NaN or infinite.
    """
    total = torch.zeros(len(KINDS), len(block_list(backbone.model, backbone.family)), dtype=torch.float64)
    tokens = 0
    for batch in length_batches([len(row.ids) for row in rows], token_budget=token_budget):
        changes = _changes([rows[row] for row in batch], backbone, parts)
        _check_finite(changes, backbone)
        total += changes.double().sum(dim=2)
        tokens += changes.shape[2]
        advance(changes.shape[2])
    means = {kind: tuple(row.tolist()) for kind, row in zip(KINDS, total / tokens, strict=True)}
    return Redundancy(**means, tokens=tokens, texts=texts)


def _changes(rows: Sequence[TokenRow], backbone: Backbone, parts: SubLayers) -> Float[Tensor, "kind layer token"]:
    """Return 1 - cos of every sub-layer at every real token of one batch, in fp32 on the CPU."""
    inputs, _, attended = pad_rows(rows, backbone, "right")
    count = len(block_list(backbone.model, backbone.family))
    changes = torch.zeros(len(KINDS), count, *attended.shape, device=attended.device)

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        # Half the squared distance of the unit vectors is 1 - cos, without the cancellation where the two hardly differ.
        between = normalize(before.float(), dim=-1) - normalize(after.float(), dim=-1)
        changes[KINDS.index(kind), layer] = between.square().sum(dim=-1) / 2

    with sub_layer_states(backbone.model, backbone.family, parts, see), torch.inference_mode():
        backbone.model(**inputs, use_cache=False)
    return changes[:, :, attended.bool()].cpu()


def _check_finite(changes: Float[Tensor, "kind layer token"], backbone: Backbone) -> None:
    bad = (~torch.isfinite(changes)).any(dim=2).T.nonzero()
    if len(bad):
        layer, kind = bad[0].tolist()
        what = "" if KINDS[kind] == "block" else f" after the {KINDS[kind]}"
        dtype = str(backbone.model.dtype).removeprefix("torch.")
        raise ProfileError(f"NaN or infinity at layer {layer}{what} in {dtype}; use --dtype float32, or check the weights")
