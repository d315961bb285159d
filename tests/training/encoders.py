"""Tiny encoders to train, and texts to train them on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from prune2vec.data.triplet import Triplet
from tests.tiny import tiny_model, tiny_tokenizer

_NOUNS = ("fox", "dog", "bird", "row", "file", "line", "layer", "model", "loss", "light")
_WORDS = (*_NOUNS, "spring", "reader", "cut", "hold", "quick", "lazy", "brown", "sing", "rows", "error")


def save_tiny_encoder(
    folder: Path,
    family: str = "llama",
    *,
    seed: int = 0,
    layers: int = 2,
    dtype: torch.dtype = torch.float32,
    **changes: int,
) -> Path:
    """Write a stock SentenceTransformer of a tiny random model, as ``prune`` leaves it, and return ``folder``."""
    plain = folder.parent / f"{folder.name}-plain"
    tiny_model(family, seed, num_hidden_layers=layers, **changes).to(dtype).save_pretrained(plain)
    tiny_tokenizer().save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=64)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="weightedmean", include_prompt=False)
    encoder = SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    (folder / "prune2vec.json").write_text(json.dumps({"format": "prune2vec.encoder/1", "train": None}))
    return folder


def rows(count: int, dataset: str = "one", *, negatives: int = 1, start: int = 0) -> list[Triplet]:
    """Return rows whose anchor and positive share two words that the negatives lack."""
    return [_row(number, dataset, negatives) for number in range(start, start + count)]


def _row(number: int, dataset: str, negatives: int) -> Triplet:
    first, second = _WORDS[number % 20], _WORDS[(number // 20 + 7 * number + 3) % 20]
    wrong = [f"the {_WORDS[(number + 5 + k) % 20]} of {number} {k} {dataset}" for k in range(negatives)]
    return Triplet(
        anchor=f"{first} {second} {number}",
        positive=f"the {first} and the {second} in the {number} {dataset}",
        negatives=tuple(wrong),
        dataset=dataset,
        line=number,
    )
