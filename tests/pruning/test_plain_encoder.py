"""An encoder that is loaded without sentence-transformers gives that library's vectors, or is loaded with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from prune2vec.encoding.engine import Engine
from prune2vec.errors import CheckpointError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.plain_encoder import PlainEncoder, load_to_encode
from prune2vec.pruning.prune import prune_model
from tests.encoding.test_engine import texts
from tests.pruning.plans import plan_for
from tests.tiny import save_tiny
from tests.tiny_encoders import TINY_ENCODERS, TinyEncoder


def plain(folder: Path, dtype: str = "float32") -> PlainEncoder:
    found = load_to_encode(str(folder), device="cpu", dtype=dtype)
    assert isinstance(found, PlainEncoder)
    return found


def changed(file: Path, **entries: Any) -> None:
    file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else {}), **entries}))


def assert_same(folder: Path, *, dtype: str = "float32") -> None:
    """Compare with sentence-transformers' own encode, and with the engine around its modules, under every prompt."""
    ours, stock, some = plain(folder, dtype), load_encoder(folder, device="cpu", dtype=dtype), texts(40)[2:]
    own = {name: getattr(stock, name) for name in ("prompts", "default_prompt_name", "max_seq_length", "truncate_dim")}
    assert {name: getattr(ours, name) for name in own} == own
    assert ours.similarity_fn_name == str(stock.similarity_fn_name)
    assert ours.get_embedding_dimension() == stock.get_embedding_dimension()
    assert list(ours.kinds) == [type(module).__name__ for module in stock]
    engine, before = Engine(ours), Engine(stock)
    assert engine.prompt == before.prompt and engine.packs == before.packs
    np.testing.assert_allclose(engine.encode(["a fox"]), before.encode(["a fox"]), atol=1e-6, rtol=1e-6)
    for prompt in dict.fromkeys(["", *stock.prompts.values()]):
        found, expected = engine.with_prompt(prompt).encode(some), stock.encode(some, prompt=prompt)
        scale = max(1.0, float(np.abs(expected).max()))
        if dtype == "float32":
            np.testing.assert_allclose(found, expected, atol=1e-5 * scale, rtol=0)
        np.testing.assert_allclose(found, before.with_prompt(prompt).encode(some), atol=2e-6 * scale, rtol=0)


@pytest.mark.parametrize("kind", TINY_ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encoders_as_they_are_published(tmp_path: Path, kind: str, dtype: str) -> None:
    assert_same(TINY_ENCODERS[kind].save(tmp_path / "m"), dtype=dtype)


@pytest.mark.parametrize("pooling", ["cls_token", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_poolings_with_and_without_the_prompt(tmp_path: Path, pooling: str, include_prompt: bool) -> None:
    kind = TinyEncoder(
        family="bert", pooling=pooling, prompts={"query": "find it: "}, include_prompt=include_prompt, around=("<s>", "</s>")
    )
    assert_same(kind.save(tmp_path / "m"))


@pytest.mark.parametrize("pooling", ["cls_token", "mean", "weightedmean", "lasttoken"])
def test_texts_with_nothing_of_their_own_to_pool(tmp_path: Path, pooling: str) -> None:
    prompts = {"query": "find it: ", "long": "the quick brown fox jumps over the lazy dog " * 20}
    folder = TinyEncoder(family="llama", pooling=pooling, prompts=prompts, include_prompt=False).save(tmp_path / "m")
    engine, stock = Engine(plain(folder)), load_encoder(folder, device="cpu", dtype="float32")
    for prompt in prompts.values():
        for some in ([""], ["", "a fox"]):
            found = engine.with_prompt(prompt).encode(some)
            np.testing.assert_allclose(found, Engine(stock, prompt=prompt).encode(some), atol=1e-6, rtol=0)
            np.testing.assert_allclose(found, stock.encode(some, prompt=prompt), atol=1e-5, rtol=0)


def test_what_sentence_transformers_itself_saved(tmp_path: Path) -> None:
    stock = SentenceTransformer(str(TINY_ENCODERS["residual"].save(tmp_path / "m")), device="cpu")
    stock.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    assert_same(tmp_path / "again")


def test_uneven_blocks(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m", bos=True)
    plan = plan_for(model, [0, 2, 4], drop_attention=[2], drop_mlp=[4], neurons={0: range(20), 2: range(48)})
    assert_same(prune_model(str(model), plan, tmp_path / "out", max_length=64))


def test_leading_dimensions(tmp_path: Path) -> None:
    folder, some = TINY_ENCODERS["embeddinggemma"].save(tmp_path / "m"), texts(12)[2:]
    stock = load_encoder(folder, device="cpu", dtype="float32")
    cut = Engine(plain(folder), dimensions=8).encode(some)
    np.testing.assert_allclose(cut, stock.encode(some, truncate_dim=8, normalize_embeddings=True), atol=1e-5, rtol=0)


ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "transformers chooses the attention": ("sentence_bert_config.json", {"model_args": {"attn_implementation": "eager"}}),
    "several poolings": ("1_Pooling/config.json", {"pooling_mode_cls_token": True}),
    "a normalisation of tokens": ("3_Normalize/config.json", {"module_input_name": "token_embeddings"}),
    "requirements": ("config_sentence_transformers.json", {"requirements": {"torch": ">=2"}}),
    "a processor": ("preprocessor_config.json", {"processor_class": None}),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_known_is_left_to_sentence_transformers(
    tmp_path: Path, odd: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = replace(TINY_ENCODERS["dot"], heads=[*TINY_ENCODERS["dot"].heads, ("Normalize", {})], pooling="mean")
    folder = kind.save(tmp_path / "m")
    file, entries = ODD[odd]
    (folder / file).parent.mkdir(exist_ok=True)
    if odd == "several poolings":
        kind = replace(kind, heads=[("Normalize", {})])
        folder = kind.save(tmp_path / "several")
    changed(folder / file, **entries)
    found = load_to_encode(str(folder), device="cpu", dtype="float32")
    assert isinstance(found, SentenceTransformer)
    assert f"sentence-transformers loads {folder}, which takes longer: " in capsys.readouterr().err
    some = texts(10)[2:]
    expected = SentenceTransformer(str(folder), device="cpu").encode(some)
    np.testing.assert_allclose(Engine(found).encode(some), expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


@pytest.mark.parametrize("file", ["model.safetensors", "3_Dense/model.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "extra", "misshapen"])
def test_every_tensor_is_loaded_and_no_other(tmp_path: Path, file: str, fault: str) -> None:
    folder = TINY_ENCODERS["shortened"].save(tmp_path / "m")
    tensors = load_file(folder / file)
    name = max(tensors)
    if fault == "extra":
        name = "stray.weight"
        tensors[name] = torch.ones(3)
    elif fault == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.ones(3)
    save_file(tensors, folder / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_to_encode(str(folder), device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("file", "entries"),
    [
        ("sentence_bert_config.json", {"max_seq_lengths": 8}),
        ("1_Pooling/config.json", {"include_prompts": False}),
        ("config_sentence_transformers.json", {"__version__": {"sentence_transformers": "6.>.0"}}),
    ],
)
def test_a_key_or_release_that_is_not_known_is_not_passed_over(tmp_path: Path, file: str, entries: dict[str, Any]) -> None:
    folder = TINY_ENCODERS["dot"].save(tmp_path / "m")
    changed(folder / file, **entries)
    with pytest.raises(CheckpointError, match="cannot load the encoder"):
        load_to_encode(str(folder), device="cpu", dtype="float32")
