"""Whether a model can take rows laid end to end: found out on the model itself, by computing a few both ways."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from prune2vec.errors import reason_of
from prune2vec.forward.batches import token_states
from prune2vec.forward.packed import ATTENTION, TOLD, holding, packable

_PROBE_LENGTHS = (7, 3, 7, 5)
# Of the states' spread over the tokens, so that a dimension that is large everywhere hides nothing.
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}
_ROUNDED_TOLERANCE = 0.05


def packing_obstacle(model: PreTrainedModel, *, max_length: int = 512, room: int | None = None) -> str:
    """Return why a model cannot take packed rows of up to ``max_length`` tokens; empty when it can.

    A few random rows are computed packed and one at a time, a long one among them where attention has a shorter window.

    Args:
        model: A base model.
        max_length: Tokens of the longest row to come.
        room: Tokens that a forward pass has memory for; None for any number.
    """
    attention, chunk = model.config._attn_implementation, getattr(model.config, "attention_chunk_size", None)
    if attention not in ("sdpa", ATTENTION):
        return f"its attention is {attention}, which has no kernel for packed rows"
    if chunk and chunk < max_length:
        return f"its attention looks at chunks of {chunk} tokens, for which packed rows have no kernel"
    window = getattr(model.config, "sliding_window", None)
    window = window if window and window < max_length else None
    rows = _probe_rows(model, window)
    if room is not None and sum(map(len, rows)) > room:
        return "the memory that may be used does not hold the rows that it is checked with"
    was_training = model.training
    model.eval()
    try:
        return _difference(model, rows, window)
    except Exception as error:
        # A model may bring code of its own, so anything may come; a fault that is not packing's shows with padding too.
        return f"packed rows fail in it ({reason_of(error)})"
    finally:
        model.train(was_training)


def _difference(model: PreTrainedModel, rows: list[list[int]], window: int | None) -> str:
    told: set[int] = set()
    with torch.no_grad(), holding(TOLD, told):
        alone = [model(input_ids=torch.tensor([row], device=model.device), use_cache=False)[0][0] for row in rows]
        with packable(model):
            # A model that keeps its own attention would still get it right, with a mask over all rows together.
            if model.config._attn_implementation != ATTENTION:
                return "its class does not let its attention be replaced"
            found = token_states(model, rows).float()
    # A window that is in the mask alone would be lost; few tokens of the rows are beyond it, so their states hardly tell.
    if window is not None and window not in told:
        return f"its attention is not told of its window of {window} tokens"
    expected = torch.cat(alone).float()
    share = float((found - expected).norm() / (expected - expected.mean(dim=0)).norm())
    if not share <= _TOLERANCE.get(model.dtype, _ROUNDED_TOLERANCE):
        return f"packed rows come out otherwise than alone (by {share:.1e} of the states' spread)"
    return ""


def _probe_rows(model: PreTrainedModel, window: int | None) -> list[list[int]]:
    # The longest length twice: a mask that spans both rows would show.
    long = [window + 3] * 2 if window is not None else []
    generator = torch.Generator().manual_seed(0)
    high = max(2, int(model.get_input_embeddings().num_embeddings))  # type: ignore[arg-type]
    return [torch.randint(1, high, (length,), generator=generator).tolist() for length in (*_PROBE_LENGTHS, *long)]
