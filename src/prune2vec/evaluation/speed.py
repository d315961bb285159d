"""How fast an encoder is and how much memory it takes, measured on a fixed sample of texts."""

from __future__ import annotations

import random
import re
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import torch

from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.text_vectors import Side, side_encode, side_prompt
from prune2vec.files import digest_json
from prune2vec.machine import memory_in_use, peak_rss_bytes

_SAMPLE_EVERY_S = 0.02


class PeakMemory:
    """Watches the resident memory of this process while a block runs.

    The operating system's own peak never falls, so that inside a longer run it would be an earlier stage's.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, memory_in_use())
            if self._stop.wait(_SAMPLE_EVERY_S):
                return

    def __enter__(self) -> Self:
        """Start watching."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop watching, after one last look."""
        self._stop.set()
        self._thread.join()
        self.peak_bytes = max(self.peak_bytes, memory_in_use())


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


def draw_sample(texts: Sequence[str], *, count: int, seed: int) -> list[str]:
    """Return ``count`` texts drawn by ``seed``, or all of them when there are fewer."""
    return random.Random(seed).sample(list(texts), min(count, len(texts)))


def measure_cost(
    encoder: LoadedEncoder, texts: tuple[Sequence[str], Sequence[str]] | None, *, source: str, settings: EvaluateSettings
) -> tuple[dict[str, Any], dict[str, int | None]]:
    """Return the speed of an encoder and its memory peaks.

    Args:
        encoder: The encoder.
        texts: Queries and documents to draw the sample from; None takes the built-in ones.
        source: Where ``texts`` come from.
        settings: Size of the sample, passes, batch size, seed.

    Returns:
        ``Results.speed`` and ``Results.memory``.
    """
    speed: dict[str, Any] = {}
    with PeakMemory() as watch:
        if settings.speed_texts:
            queries, documents = texts or builtin_sample()
            name = source if texts else "python language reference"
            speed = measure_speed(encoder, queries, documents, source=name, settings=settings)
    device = encoder.model.device
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return speed, {"process": peak_rss_bytes(), "encoding": watch.peak_bytes if speed else None, "cuda": cuda}


def measure_speed(
    encoder: LoadedEncoder, queries: Sequence[str], documents: Sequence[str], *, source: str, settings: EvaluateSettings
) -> dict[str, Any]:
    """Return texts/s and tokens/s for queries and documents, each the median of several passes after a warm-up."""
    sides: list[tuple[Side, Sequence[str]]] = [("queries", queries), ("documents", documents)]
    samples = {side: draw_sample(texts, count=settings.speed_texts, seed=settings.seed) for side, texts in sides}
    return {
        "source": source,
        "digest": digest_json(samples),
        "engine": "sentence-transformers" if encoder.engine is None else "prune2vec",
        "batch_size": settings.batch_size,
        **{side: _measure_side(encoder, samples[side], side, settings) for side, _ in sides},
    }


def _measure_side(encoder: LoadedEncoder, texts: list[str], side: Side, settings: EvaluateSettings) -> Mapping[str, Any]:
    encode = side_encode(encoder, side, batch_size=settings.batch_size)
    prompt = side_prompt(encoder.model, side) or None
    # Real tokens of one pass: truncated, prompt included, no padding.
    tokens = sum(int(encoder.model.preprocess([text], prompt=prompt)["attention_mask"].sum()) for text in texts)
    longest_first = sorted(texts, key=len, reverse=True)
    encode(longest_first[: settings.batch_size])
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
