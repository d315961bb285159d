from __future__ import annotations

import time

import pytest

from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder
from prune2vec.evaluation.speed import builtin_sample, measure_cost
from tests.evaluation.helpers import QUICK

TEXTS = [f"text number {n}" for n in range(10)]


def test_rates_follow_from_the_median_pass(encoder: LoadedEncoder) -> None:
    speed, _ = measure_cost(encoder, (TEXTS, TEXTS), source="here", settings=EvaluateSettings(**{**QUICK, "speed_repeats": 3}))
    side = speed["documents"]
    assert len(side["pass_seconds"]) == 3
    middle = sorted(side["pass_seconds"])[1]
    assert side["texts_per_s"] == pytest.approx(3 / middle)
    assert side["tokens_per_s"] == pytest.approx(side["tokens"] / middle)


def test_tokens_are_those_encoded(encoder: LoadedEncoder) -> None:
    texts = ["a b c", "word " * 200]
    speed, _ = measure_cost(encoder, (texts, texts), source="here", settings=EvaluateSettings(**QUICK))
    # The long one is cut at the encoder's 64 tokens; padding does not count.
    assert speed["queries"]["tokens"] == 64 + len(encoder.model.tokenizer("a b c")["input_ids"])


def test_time_is_limited(encoder: LoadedEncoder) -> None:
    settings = EvaluateSettings(**{**QUICK, "speed_repeats": 1000, "speed_seconds": 0.05})
    begin = time.perf_counter()
    speed, _ = measure_cost(encoder, (TEXTS, TEXTS), source="here", settings=settings)
    assert time.perf_counter() - begin < 5
    assert 1 <= len(speed["queries"]["pass_seconds"]) < 1000


def test_the_sample_is_fixed(encoder: LoadedEncoder) -> None:
    def digest(**changes: int) -> str:
        settings = EvaluateSettings(**{**QUICK, "speed_texts": 4, **changes})
        return str(measure_cost(encoder, (TEXTS, TEXTS), source="here", settings=settings)[0]["digest"])

    assert digest(seed=1) == digest(seed=1) != digest(seed=2)
    speed, _ = measure_cost(encoder, (TEXTS, TEXTS), source="", settings=EvaluateSettings(**{**QUICK, "speed_texts": 99}))
    assert speed["queries"]["texts"] == len(TEXTS)


def test_the_builtin_sample_is_prose() -> None:
    queries, documents = builtin_sample()
    assert len(queries) > 300
    assert len(documents) > 300
    assert {20 <= len(query) <= 150 for query in queries} == {True}
    assert {400 <= len(document) <= 1200 for document in documents} == {True}


def test_speed_can_be_left_out(encoder: LoadedEncoder) -> None:
    speed, memory = measure_cost(encoder, None, source="", settings=EvaluateSettings(**{**QUICK, "speed_texts": 0}))
    assert speed == {}
    assert memory["encoding"] is None
    assert memory["process"] > 50e6
