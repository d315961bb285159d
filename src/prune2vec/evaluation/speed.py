"""How fast an encoder is and how much memory it takes, measured on a fixed sample of texts."""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, Side, as_stock, side_encode, side_prompt
from prune2vec.files import digest_json
from prune2vec.machine import peak_memory, peak_rss_bytes
from prune2vec.models.tokens import longest_first


def builtin_sample() -> tuple[list[str], list[str]]:
    """Return (queries, documents) made from the language reference in Python's standard library.

    English prose with some code: documents of 400 to 1,200 characters, queries of 20 to 150.
    """
    from pydoc_data.topics import topics

    queries, documents = [], []
    for _, text in sorted(topics.items()):
        flat = re.sub(r"\s+", " ", text).strip()
        documents += [flat[start : start + 1200] for start in range(0, len(flat) - 399, 1200)]
        queries += [sentence for sentence in re.split(r"(?<=\.) ", flat) if 20 <= len(sentence) <= 150]
    return queries, documents


def measure_cost(
    encoder: LoadedEncoder, texts: tuple[Sequence[str], Sequence[str]] | None, *, source: str, settings: EvaluateSettings
) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Return ``Results.speed`` and ``Results.memory``: rates of queries and documents, medians of several passes; and peaks.

    The sample is drawn from ``texts``, queries and documents that come from ``source``, or without them from the built-in ones.
    """
    speed: dict[str, Any] = {}
    with peak_memory() as peak:
        if settings.speed_texts:
            sides: tuple[Side, Side] = ("queries", "documents")
            samples = {
                side: random.Random(settings.seed).sample(list(of_side), min(settings.speed_texts, len(of_side)))
                for side, of_side in zip(sides, texts or builtin_sample(), strict=True)
            }
            speed = {
                "source": source if texts else "python language reference",
                "digest": digest_json(samples),
                "engine": "sentence-transformers" if encoder.engine is None else "prune2vec",
                "batch_size": settings.batch_size,
                **{side: _measure_side(encoder, samples[side], side, settings) for side in sides},
            }
    device = encoder.model.device
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return speed, {"process": peak_rss_bytes(), "encoding": peak[0] if speed else None, "cuda": cuda}


def _count_tokens(encoder: LoadedEncoder, texts: list[str], prompt: str) -> int:
    if encoder.engine is not None:
        return sum(map(len, encoder.engine.with_prompt(prompt).tokenise(texts)))
    model = as_stock(encoder.model)
    return sum(int(model.preprocess([text], prompt=prompt or None)["attention_mask"].sum()) for text in texts)


def _measure_side(encoder: LoadedEncoder, texts: list[str], side: Side, settings: EvaluateSettings) -> Mapping[str, Any]:
    encoder = encoder.of(side)
    encode = side_encode(encoder, side, batch_size=settings.batch_size)
    # Real tokens of one pass: truncated, prompt included, no padding.
    tokens = _count_tokens(encoder, texts, side_prompt(encoder.model, side))
    encode([texts[place] for place in longest_first(list(map(len, texts)))[: settings.batch_size]])
    seconds: list[float] = []
    while len(seconds) < settings.speed_repeats and sum(seconds) < settings.speed_seconds:
        begin = time.perf_counter()
        encode(texts)
        if encoder.model.device.type == "cuda":
            torch.cuda.synchronize(encoder.model.device)
        seconds.append(time.perf_counter() - begin)
    middle = statistics.median(seconds)
    return {
        "texts_per_s": len(texts) / middle,
        "tokens_per_s": tokens / middle,
        "texts": len(texts),
        "tokens": tokens,
        "pass_seconds": seconds,
    }
