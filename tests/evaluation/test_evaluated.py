from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SimilarityFunction
from sentence_transformers.sentence_transformer.modules import Transformer

from prune2vec.encoding.engine import Engine
from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import LoadedEncoder, encode_texts, load_for_evaluation
from prune2vec.evaluation.retrieval import SIMILARITIES
from prune2vec.evaluation.speed import _count_tokens
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.plain_encoder import PlainEncoder
from tests.encoding.test_engine import routed
from tests.evaluation.helpers import QUICK, save_tiny_encoder
from tests.tiny import save_tiny, tiny_model
from tests.tiny_encoders import TINY_ENCODERS

SETTINGS = EvaluateSettings(**QUICK)


def test_sizes_are_counted_once(encoder: LoadedEncoder) -> None:
    model = tiny_model("llama")
    assert encoder.size() == {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "embedding_parameters": 384 * 32,
        "disk_bytes": sum(file.stat().st_size for file in encoder.folder.rglob("*") if file.is_file()),
    }


def test_what_is_said_about_an_encoder(encoder: LoadedEncoder) -> None:
    said = encoder.describe()
    assert (said["dimension"], said["max_length"], said["dtype"], said["device"]) == (32, 64, "float32", "cpu")
    assert said["modules"] == ["Transformer", "Pooling", "Normalize"]
    assert len(said["digest"]) == 64


def test_the_digest_follows_the_weights(encoder: LoadedEncoder, tmp_path: Path) -> None:
    other = load_for_evaluation(save_tiny_encoder(tmp_path / "other", seed=1), SETTINGS)
    assert other.digest != encoder.digest
    copy = shutil.copytree(encoder.folder, tmp_path / "copy")
    assert load_for_evaluation(copy, SETTINGS).digest == encoder.digest


def test_max_length_replaces_the_encoders_own(encoder_folder: Path) -> None:
    short = load_for_evaluation(encoder_folder, EvaluateSettings(**QUICK, max_length=8))
    assert short.model.max_seq_length == 8


def test_dtype_is_used(encoder_folder: Path) -> None:
    half = load_for_evaluation(encoder_folder, EvaluateSettings(**{**QUICK, "dtype": "bfloat16"}))
    assert {str(parameter.dtype) for parameter in half.model.parameters()} == {"torch.bfloat16"}


def test_what_is_no_encoder(tmp_path: Path) -> None:
    for folder in (save_tiny(tmp_path / "bare"), tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError) as caught:
            load_for_evaluation(folder, SETTINGS)
        assert "\n" not in str(caught.value)


def test_a_damaged_folder_is_one_line(encoder_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(encoder_folder, tmp_path / "damaged")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load") as caught:
        load_for_evaluation(folder, SETTINGS)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the vectors of .*nan are not finite, first that of 'a'"):
        load_for_evaluation(save_tiny_encoder(tmp_path / "nan", broken=True), SETTINGS)


def test_an_unknown_device_is_one_line(encoder_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no device is called 'gpu9'"):
        load_for_evaluation(encoder_folder, EvaluateSettings(**{**QUICK, "device": "gpu9"}))


def test_the_engine_is_used_only_where_it_gives_the_encoders_own_vectors(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load_for_evaluation(encoder_folder, SETTINGS).engine is not None
    encode = Engine.encode
    monkeypatch.setattr(Engine, "encode", lambda self, texts: encode(self, texts) * 1.01)
    assert load_for_evaluation(encoder_folder, SETTINGS).engine is None
    assert (
        "sentence-transformers encodes, which takes longer: the engine's vectors differ by 1.0e-02" in capsys.readouterr().err
    )


def test_an_encoder_that_the_engine_refuses_keeps_its_own_encode(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def with_limit(*args: Any, **settings: Any) -> SentenceTransformer:
        model = load_encoder(*args, **settings)
        model[0].query_length = 4
        return model

    monkeypatch.setattr("prune2vec.evaluation.evaluated.load_encoder", with_limit)
    assert load_for_evaluation(encoder_folder, SETTINGS).engine is None
    assert "another limit on length for queries" in capsys.readouterr().err


def test_an_encoder_with_modules_of_its_own_for_queries_keeps_its_own_encode(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("prune2vec.evaluation.evaluated.load_encoder", lambda *args, **settings: routed(load_encoder(*args)))
    loaded = load_for_evaluation(encoder_folder, SETTINGS)
    assert loaded.engine is None
    assert "computes queries otherwise than documents" in capsys.readouterr().err
    for side, encode in (("queries", loaded.model.encode_query), ("documents", loaded.model.encode_document)):
        np.testing.assert_allclose(encode_texts(loaded, ["a fox"], side, batch_size=2), encode(["a fox"]), atol=1e-6)


def test_an_encoder_with_other_tokens_under_one_prompt_keeps_its_own_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_encoder(tmp_path / "prompted", prompts={"query": "find: ", "document": ""})
    preprocess = Transformer.preprocess

    def chatty(self: Transformer, texts: list[str], prompt: str | None = None, **options: Any) -> Any:
        return preprocess(self, texts, prompt=f"user: {prompt}" if prompt else prompt, **options)

    monkeypatch.setattr(Transformer, "preprocess", chatty)
    loaded = load_for_evaluation(folder, SETTINGS)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "sentence-transformers encodes" in line and "'find: '" in line] == said[-1:]
    assert loaded.engine is None
    found = encode_texts(loaded, ["a fox"], "queries", batch_size=2)
    np.testing.assert_allclose(found, loaded.model.encode_query(["a fox"]), atol=1e-6)


@pytest.mark.parametrize("kind", ["embeddinggemma", "dot", "lower"])
def test_an_encoder_that_need_only_encode_is_the_same(tmp_path: Path, kind: str) -> None:
    folder = TINY_ENCODERS[kind].save(tmp_path / "m")
    stock, plain = (load_for_evaluation(folder, SETTINGS, stock=way) for way in (True, False))
    assert isinstance(plain.model, PlainEncoder) and isinstance(stock.model, SentenceTransformer)
    assert plain.describe() == stock.describe() and plain.size() == stock.size()
    some = ["a fox", "The Lazy dog " * 30, "birds sing"]
    for side in ("queries", "documents"):
        one, other = (encode_texts(loaded, some, side, batch_size=2) for loaded in (plain, stock))
        np.testing.assert_allclose(one, other, atol=1e-5, rtol=1e-5)
    assert [_count_tokens(loaded, some, "find: ") for loaded in (plain, replace(stock, engine=None))] == [
        sum(len(stock.model.preprocess([text], prompt="find: ")["input_ids"][0]) for text in some)
    ] * 2


def test_nan_weights_are_refused_in_an_encoder_that_need_only_encode(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path / "nan", broken=True)
    with pytest.raises(CheckpointError, match=r"nan: NaN or infinity in the vector of"):
        load_for_evaluation(folder, SETTINGS, stock=False)


@pytest.mark.parametrize("stock", [True, False])
def test_an_encoder_of_one_vector_for_all_is_refused(tmp_path: Path, stock: bool) -> None:
    folder = save_tiny_encoder(tmp_path / "zeros")
    tensors = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(one) for name, one in tensors.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"zeros gives only zeros for different texts, so nothing can be scored"):
        load_for_evaluation(folder, SETTINGS, stock=stock)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarities_are_sentence_transformers(name: str) -> None:
    torch.manual_seed(0)
    queries, documents = torch.randn(3, 8), torch.randn(40, 8)
    expected = SimilarityFunction.to_similarity_fn(name)(queries, documents)
    torch.testing.assert_close(SIMILARITIES[name](queries, documents), expected, atol=0, rtol=0)
