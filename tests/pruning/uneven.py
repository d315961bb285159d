"""Cuts that leave blocks unlike each other, and what they must compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from prune2vec.forward.pooling import pool, poolings
from prune2vec.planning.plan import PruningPlan
from prune2vec.pruning.parity import PROBE_TEXTS
from prune2vec.pruning.prune import prune_model
from tests.models.silence import silenced
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny

FULL = 48
KEEP = (0, 1, 3, 4)
# Of a tiny model's 48 neurons; none starts at the first neuron, so that a wrong offset is seen.
WIDTHS = {
    "full": {},
    "uneven": {0: range(5, 25), 3: range(1, FULL, 2)},
    "uniform": {layer: range(layer + 1, layer + 31) for layer in KEEP},
}


def uneven_plan(model: Path, mlp: bool, attention: bool, widths: str) -> PruningPlan:
    """Return the cut of blocks 0, 1, 3 and 4 without the MLP of block 1, the attention of block 3, or both."""
    drop_mlp, drop_attention = [1] * mlp, [3] * attention
    neurons = {layer: stay for layer, stay in WIDTHS[widths].items() if layer not in drop_mlp}
    return plan_for(model, KEEP, drop_mlp=drop_mlp, drop_attention=drop_attention, neurons=neurons)


def silenced_original(model: Path, plan: PruningPlan, pooling: str = "weightedmean", longest: int = 128) -> np.ndarray:
    """Encode the probe texts one by one with the whole original, whose dropped parts are silent, in fp32."""
    whole = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer, vectors = AutoTokenizer.from_pretrained(model), []
    with silenced(whole, plan), torch.inference_mode():
        for text in PROBE_TEXTS:
            ids = torch.tensor([tokenizer(text, truncation=True, max_length=longest)["input_ids"]])
            ones = torch.ones_like(ids)
            states = whole(input_ids=ids, use_cache=False).last_hidden_state
            vectors.append(pool(states, poolings.get(pooling)(ones, ones)))
    return torch.nn.functional.normalize(torch.cat(vectors), dim=1).numpy()


def cut_tiny(tmp_path: Path, family: str = "llama", *, mlp: bool = True, attention: bool = False, widths: str = "full") -> Path:
    """Write a tiny model and its cut, and return the cut's folder."""
    model = save_tiny(tmp_path / "m", family)
    return prune_model(str(model), uneven_plan(model, mlp, attention, widths), tmp_path / "out", max_length=128)
