"""The layer-wise loss measured the way the L3Prune paper's public code does it, written anew and plainly, to compare speed with.

Texts in batches of 64 tuples in file order; three forward passes a batch (queries, positives, negatives), each padded on
the left to its longest text, with the attention mask; every depth's hidden states kept to the end of the pass
(``output_hidden_states``); the final norm applied to every depth; each depth pooled row by
row; one loss a depth and batch. Which tokens are the text is found by tokenising every text a second time, alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from prune2vec.data.triplet import Triplet
from prune2vec.models.load import load_tokenizer
from prune2vec.models.source import resolve_source

BATCH = 64


def load(
    name: str, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model and its tokeniser, set up as the paper's code does: padding with EOS, on the left."""
    source = resolve_source(name)
    tokenizer = load_tokenizer(source)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model = AutoModel.from_pretrained(source.location, revision=source.revision, dtype=dtype)
    return model.to(device).eval(), tokenizer


def layer_losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    triplets: Sequence[Triplet],
    *,
    max_length: int = 512,
    scale: float = 50.0,
) -> list[float]:
    """Return the loss of every depth, depth 1 first: the mean over batches of ``BATCH`` tuples in the given order."""
    curves = []
    for start in range(0, len(triplets), BATCH):
        batch = triplets[start : start + BATCH]
        columns = ([row.anchor for row in batch], [row.positive for row in batch], [row.negatives[0] for row in batch])
        queries, positives, negatives = (_pooled_depths(model, tokenizer, texts, max_length) for texts in columns)
        depths = zip(queries, positives, negatives, strict=True)
        curves.append([_loss(query, positive, negative, scale) for query, positive, negative in depths])
    return [sum(column) / len(curves) for column in zip(*curves, strict=True)]


def _pooled_depths(model: Any, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int) -> list[Tensor]:
    """Return one (text, dim) tensor of pooled vectors a depth."""
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt").to(model.device)
    counts = [
        len(tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_length)["input_ids"]) for text in texts
    ]
    with torch.no_grad():
        found = model(**inputs, output_hidden_states=True, use_cache=False)
        # The last of them has been through the norm already.
        states = [*(model.norm(hidden) for hidden in found.hidden_states[1:-1]), found.hidden_states[-1]]
    return [_weighted_means(depth, counts) for depth in states]


def _weighted_means(states: Tensor, counts: list[int]) -> Tensor:
    """Return the position-weighted mean of the last ``counts[row]`` tokens of every row."""
    vectors = []
    for row, count in zip(states, counts, strict=True):
        weights = torch.arange(1, count + 1, dtype=torch.float32, device=states.device)
        weights = weights / weights.sum()
        vectors.append((row[-count:].float() * weights[:, None]).sum(dim=0))
    return torch.stack(vectors)


def _loss(queries: Tensor, positives: Tensor, negatives: Tensor, scale: float) -> float:
    candidates = torch.nn.functional.normalize(torch.cat([positives, negatives]), dim=1)
    scores = torch.nn.functional.normalize(queries, dim=1) @ candidates.T * scale
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(queries), device=scores.device)).item()
