from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prune2vec.errors import EvaluationError
from prune2vec.evaluation.evaluated import LoadedEncoder, encode_texts

TEXTS = [f"text number {n} " + "and so on " * (n % 7) for n in range(150)]


def test_order_and_values_are_the_encoders_own(encoder: LoadedEncoder) -> None:
    one_by_one = np.stack([encoder.model.encode_query(text) for text in TEXTS[:20]])
    assert torch.allclose(encode_texts(encoder, TEXTS, "queries", batch_size=8)[:20], torch.from_numpy(one_by_one), atol=1e-5)


def test_each_side_gets_its_own_prompt(encoder: LoadedEncoder) -> None:
    model = encoder.model
    plain = encode_texts(encoder, TEXTS[:2], "queries", batch_size=8)
    own = model.prompts
    model.prompts = {"query": "find this: ", "document": ""}
    try:
        assert not torch.allclose(encode_texts(encoder, TEXTS[:2], "queries", batch_size=8), plain, atol=1e-3)
        assert torch.allclose(encode_texts(encoder, TEXTS[:2], "documents", batch_size=8), plain, atol=1e-6)
    finally:
        model.prompts = own


def test_with_and_without_engine_alike(encoder: LoadedEncoder) -> None:
    assert encoder.engine is not None
    plain = encode_texts(replace(encoder, engine=None), TEXTS, "documents", batch_size=8)
    assert torch.allclose(encode_texts(encoder, TEXTS, "documents", batch_size=8), plain, atol=1e-5)


def test_prompts_are_found_as_in_sentence_transformers(encoder: LoadedEncoder) -> None:
    model, own = encoder.model, (encoder.model.prompts, encoder.model.default_prompt_name)
    try:
        for prompts, default in (({"passage": "p: ", "corpus": "c: "}, None), ({"query": "q: ", "any": "a: "}, "any")):
            model.prompts, model.default_prompt_name = prompts, default
            for side, encode in (("queries", model.encode_query), ("documents", model.encode_document)):
                expected = torch.from_numpy(encode(TEXTS[:5]))
                assert torch.allclose(encode_texts(encoder, TEXTS[:5], side, batch_size=8), expected, atol=1e-5)
    finally:
        model.prompts, model.default_prompt_name = own


def test_the_engine_names_the_text_without_a_finite_embedding(encoder: LoadedEncoder) -> None:
    norm = encoder.model[0].auto_model.norm.weight.data
    before = norm.clone()
    norm[0] = float("nan")
    try:
        with pytest.raises(EvaluationError, match=r"queries: NaN or infinity in the vector of .*text number"):
            encode_texts(encoder, TEXTS[:2], "queries", batch_size=8)
    finally:
        norm.copy_(before)


def test_embeddings_that_are_not_finite_are_named(encoder: LoadedEncoder) -> None:
    class Broken:
        def encode_query(self, texts: list[str], **_: object) -> np.ndarray:
            return np.array([[np.nan if "3" in text else 1.0] for text in texts])

    with pytest.raises(EvaluationError, match=r"1 of 5 queries .* float32: 'text number 3"):
        encode_texts(replace(encoder, model=Broken(), engine=None), TEXTS[:5], "queries", batch_size=2)


def test_nothing_to_encode(encoder: LoadedEncoder) -> None:
    with pytest.raises(EvaluationError, match="no documents"):
        encode_texts(encoder, [], "documents", batch_size=2)
