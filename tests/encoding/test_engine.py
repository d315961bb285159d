"""The engine's vectors are SentenceTransformer.encode's, for every text, whatever its batch mates."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router

from prune2vec.encoding.engine import Engine
from prune2vec.errors import EncodingError
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.plain_encoder import PlainEncoder, load_to_encode
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import CAUSAL, FAMILIES, save_tiny
from tests.tiny_encoders import TINY_ENCODERS

WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "lazy",
    "dog",
    "while",
    "birds",
    "sing",
    "in",
    "",
    "morning",
    "light\n",
    "of",
    "spring",
]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["", " ", "a", *(" ".join(draw.choices(WORDS, k=draw.randint(1, 90))) for _ in range(count - 3))]


def encoder(folder: Path, family: str = "llama", *, bos: bool = False, **settings: str) -> SentenceTransformer:
    model = save_tiny(folder / "m", family, bos=bos)
    out = prune_model(str(model), plan_for(model, [0, 2, 4]), folder / "out", max_length=64, **settings)
    return load_encoder(out, device="cpu", dtype="float32")


def plain(folder: Path) -> PlainEncoder:
    """Return the encoder that ``encoder`` wrote, without sentence-transformers."""
    found = load_to_encode(str(folder / "out"), device="cpu", dtype="float32")
    assert isinstance(found, PlainEncoder)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(tmp_path: Path, family: str) -> None:
    stock, some = encoder(tmp_path, family, bos=True), texts(40)[2:]
    expected = stock.encode(some, batch_size=7)
    for engine in (Engine(stock, token_budget=200), Engine(plain(tmp_path), token_budget=200)):
        assert engine.is_causal == (family in CAUSAL)
        assert engine.packs == (family not in ("gemma2", "mpnet"))
        np.testing.assert_allclose(engine.encode(some), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
@pytest.mark.parametrize("instruction", ["", "find it"])
def test_every_pooling_with_and_without_instruction(tmp_path: Path, pooling: str, instruction: str) -> None:
    stock, some = encoder(tmp_path, bos=True, pooling=pooling, instruction=instruction), texts(30)[2:]
    for engine in (Engine(stock, prompt=stock.prompts["query"]), Engine(plain(tmp_path), prompt=stock.prompts["query"])):
        np.testing.assert_allclose(engine.encode(some), stock.encode_query(some), atol=1e-5, rtol=0)


def test_a_model_that_cannot_be_packed_gets_padded_batches(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(30)[2:]
    stock[0].auto_model.set_attn_implementation("eager")
    engine = Engine(stock)
    assert not engine.packs
    np.testing.assert_allclose(engine.encode(some), stock.encode(some), atol=1e-5, rtol=0)


def test_what_a_model_can_take_is_found_out_once_and_not_for_a_query_alone(tmp_path: Path) -> None:
    engine, passes = Engine(encoder(tmp_path, bos=True)), []
    handle = engine.encoder[0].auto_model.embed_tokens.register_forward_hook(lambda module, args, out: passes.append(1))
    engine.encode(["a fox"])
    assert len(passes) == 1
    engine.encode(["a fox", "a dog"])
    found_out = len(passes)
    assert found_out > 3
    engine.with_prompt("find: ").encode(["a fox", "a dog"])
    handle.remove()
    assert len(passes) == found_out + 1


def test_no_pass_is_larger_than_its_budget(tmp_path: Path) -> None:
    stock, sizes = encoder(tmp_path, bos=True), []
    engine = Engine(stock, token_budget=200)
    assert engine.packs
    handle = stock[0].auto_model.embed_tokens.register_forward_hook(lambda module, args, out: sizes.append(args[0].numel()))
    engine.encode(texts(40))
    handle.remove()
    assert max(sizes) <= 200
    assert statistics.median(sizes) > 180


def test_batches_change_nothing(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(40)
    one, many = Engine(stock, token_budget=64), Engine(stock, token_budget=4096)
    np.testing.assert_allclose(one.encode(some), many.encode(some), atol=1e-6, rtol=0)
    order = random.Random(1).sample(range(len(some)), len(some))
    np.testing.assert_allclose(many.encode([some[place] for place in order]), many.encode(some)[order], atol=1e-6, rtol=0)


def test_texts_without_tokens_are_zero_vectors_as_in_sentence_transformers(tmp_path: Path) -> None:
    stock = encoder(tmp_path)
    some = ["", "a fox", ""]
    for engine in (Engine(stock), Engine(plain(tmp_path))):
        np.testing.assert_allclose(engine.encode(some), stock.encode(some), atol=1e-5, rtol=0)
        assert not engine.encode([""]).any()


def test_nothing_to_encode(tmp_path: Path) -> None:
    assert Engine(encoder(tmp_path)).encode([]).shape == (0, 32)


def test_leading_dimensions_are_normalised_again(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(10)
    cut = Engine(stock, dimensions=8).encode(some)
    np.testing.assert_allclose(cut, stock.encode(some, truncate_dim=8, normalize_embeddings=True), atol=1e-5, rtol=0)


def test_a_model_that_looks_ahead_gets_its_mask(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(30)[2:]
    stock[0].auto_model.config.is_causal = False
    stock[0].auto_model.set_attn_implementation("eager")
    engine = Engine(stock)
    assert not engine.is_causal and not engine.packs
    np.testing.assert_allclose(engine.encode(some), stock.encode(some), atol=1e-5, rtol=0)


def test_nan_names_the_text(tmp_path: Path) -> None:
    stock = encoder(tmp_path, bos=True)
    engine = Engine(stock)
    stock[0].auto_model.norm.weight.data[0] = float("nan")
    with pytest.raises(
        EncodingError,
        match=r"NaN or infinity in the vector of .*the quick.*; the weights are damaged",
    ):
        engine.encode(["the quick"])


def test_equal_texts_are_computed_once(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(12)
    engine, rows = Engine(stock), []
    assert engine.packs and engine.is_causal
    handle = stock[0].auto_model.embed_tokens.register_forward_hook(lambda module, args, output: rows.append(args[0].numel()))
    counted: list[float] = []
    many = engine.encode_rows(engine.tokenise([*some, *reversed(some), some[3]]), counted.append)
    handle.remove()
    assert sum(rows) == sum(map(len, {tuple(row) for row in engine.tokenise(some)})), "and without padding"
    assert sum(counted) == sum(map(len, engine.tokenise([*some, *some, some[3]])))
    np.testing.assert_array_equal(many[: len(some)], many[len(some) : 2 * len(some)][::-1])
    np.testing.assert_array_equal(many[3], many[-1])


def test_another_prompt_leaves_the_first_engine_as_it_is(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True, instruction="find it"), texts(10)[2:]
    plain = Engine(stock, prompt="")
    before = plain.encode(some)
    prompted = plain.with_prompt(stock.prompts["query"])
    np.testing.assert_allclose(prompted.encode(some), stock.encode_query(some), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(plain.encode(some), before)


def test_fewer_dimensions_of_the_encoder_itself_are_not_normalised_again(tmp_path: Path) -> None:
    stock, some = encoder(tmp_path, bos=True), texts(10)[2:]
    stock.truncate_dim = 8
    assert Engine(stock).encode(some).shape == (8, 8)
    np.testing.assert_allclose(Engine(stock).encode(some), stock.encode(some), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TINY_ENCODERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_encoders_with_heads_and_prompts_of_their_own(tmp_path: Path, kind: str, dtype: str) -> None:
    stock, some = load_encoder(TINY_ENCODERS[kind].save(tmp_path / "m"), device="cpu", dtype=dtype), texts(30)[2:]
    default = stock.prompts.get(stock.default_prompt_name or "", "")
    for prompt in dict.fromkeys([default, *stock.prompts.values()]):
        expected = stock.encode(some, prompt=prompt)
        found = Engine(stock).with_prompt(prompt).encode(some)
        if dtype == "float32":
            np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)
        cosine = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
        assert cosine.min() > 0.98


def test_only_what_is_normalised_at_the_end_is_normalised_again(tmp_path: Path) -> None:
    stock, some = load_encoder(TINY_ENCODERS["shortened"].save(tmp_path / "m"), device="cpu", dtype="float32"), texts(6)[2:]
    np.testing.assert_allclose(Engine(stock, dimensions=8).encode(some), stock.encode(some, truncate_dim=8), atol=1e-5, rtol=0)


def test_a_chat_template_is_refused(tmp_path: Path) -> None:
    stock = encoder(tmp_path, bos=True)
    tokenizer = stock[0].tokenizer
    stock[0].preprocess = lambda texts, prompt=None: tokenizer(
        [f"user: {text}" for text in texts], padding=True, return_tensors="pt"
    )
    with pytest.raises(EncodingError, match=r"other tokens .* chat template"):
        Engine(stock)


def routed(stock: SentenceTransformer) -> SentenceTransformer:
    """Return the encoder with a linear layer for queries and another for documents after its pooling."""
    torch.manual_seed(0)
    branches = {task: [Dense(32, 32)] for task in ("query", "document")}
    return SentenceTransformer(modules=[stock[0], stock[1], Router(branches, default_route="document")], device="cpu")


def test_other_modules_for_queries_are_refused(tmp_path: Path) -> None:
    stock = routed(encoder(tmp_path, bos=True))
    assert not np.allclose(stock.encode_query(["a fox"]), stock.encode_document(["a fox"]), atol=1e-2)
    with pytest.raises(EncodingError, match="computes queries otherwise than documents"):
        Engine(stock)


def test_a_prompt_that_gives_other_tokens_is_named(tmp_path: Path) -> None:
    stock = encoder(tmp_path, bos=True)
    preprocess = stock[0].preprocess
    stock[0].preprocess = lambda texts, prompt=None: preprocess(texts, prompt=f"{prompt} " if prompt else prompt)
    with pytest.raises(EncodingError, match="other tokens than its tokeniser does under the prompt 'find: '"):
        Engine(stock).with_prompt("find: ")


def test_lengths_by_task_are_refused(tmp_path: Path) -> None:
    stock = encoder(tmp_path, bos=True)
    stock[0].query_length = 4
    with pytest.raises(EncodingError, match="limit on length"):
        Engine(stock)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_rounded_weights_are_no_further_off_than_in_sentence_transformers(tmp_path: Path, family: str) -> None:
    stock, some = encoder(tmp_path, family, bos=True), texts(200)[2:]
    exact = stock.encode(some)
    stock.to(torch.bfloat16)
    ours, theirs = (
        (exact * vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)
        for vectors in (Engine(stock).encode(some), stock.encode(some))
    )
    assert 1 - ours.mean() <= (1 - theirs.mean()) * 1.05
    assert 1 - ours.min() <= (1 - theirs.min()) * 1.5
    assert ours.min() < 1 - 1e-7
