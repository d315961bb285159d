"""Packed training against sentence-transformers' own forward passes: losses, and every gradient."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from prune2vec.errors import ConfigError
from prune2vec.forward.packed import ATTENTION, packable
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.adapters import add_lora, base_model
from prune2vec.training.objective import build_loss
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import save_tiny_encoder

LONG = 64


def texts(count: int, seed: int) -> list[str]:
    """Return texts of 1 to 40 words, so that some are cut."""
    draw = random.Random(seed)
    words = ("fox", "dog", "bird", "row", "file", "line", "of", "12", "and")
    return [" ".join(draw.choices(words, k=draw.choice((1, 2, 3, 8, 40)))) for _ in range(count)]


def columns(encoder: SentenceTransformer, *, prompt: str = "") -> list[dict[str, Any]]:
    """Return three columns; each row's negative is the next row's positive, as it often is, and the first ones repeat."""
    anchors, positives = texts(6, 1), texts(6, 2)
    negatives = [positives[1], positives[1], *positives[3:], anchors[0]]
    return [
        dict(encoder.preprocess(column, prompt=given))
        for column, given in ((anchors, prompt), (positives, ""), (negatives, ""))
    ]


def made(folder: Path, *, method: str = "lora", **settings: Any) -> SentenceTransformer:
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    encoder.max_seq_length = LONG
    if method == "lora":
        torch.manual_seed(0)
        add_lora(encoder, TrainSettings(lora_rank=4, **{"lora_dropout": 0.0, **settings}))
        with torch.no_grad():
            for parameter in encoder.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.train()


def test_a_step_fetches_each_column_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made(save_tiny_encoder(tmp_path / "m"))
    inputs, fetched, fetch = columns(encoder), [], Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda tensor: fetched.append(tensor.shape) or fetch(tensor))
    with without_padding(build_loss(encoder, TrainSettings()), encoder, "on", max_length=LONG) as (loss, _):
        fetched.clear()
        loss(inputs, None)
    assert [shape for shape in fetched if len(shape) > 1] == [(2, *column["input_ids"].shape) for column in inputs]


def stepped(encoder: SentenceTransformer, loss: nn.Module, inputs: list[dict[str, Any]], labels: Tensor | None = None) -> Any:
    """Return the loss and every gradient of one step."""
    encoder.zero_grad()
    found = loss(inputs, labels)
    total = sum(found.values()) if isinstance(found, dict) else found
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_equal_steps(ours: Any, theirs: Any) -> None:
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-5)
    assert set(ours[1]) == set(theirs[1]) != set()
    largest = max(float(gradient.abs().max()) for gradient in theirs[1].values())
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).abs().max() <= 1e-5 * largest, name


@contextmanager
def count_tokens(encoder: SentenceTransformer) -> Iterator[list[int]]:
    counts: list[int] = []

    def count(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        counts.append(kwargs["input_ids"].numel())

    handle = encoder.transformers_model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


NO_DROPOUT: dict[str, Any] = {
    family: {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0} for family in ("bert", "roberta", "mpnet")
}
ENCODERS_WITH_LAYERS = ("bert", "roberta", "mpnet", "modernbert")


LOSSES: dict[str, dict[str, Any]] = {
    "plain": {},
    "cached": {"cached": True, "mini_batch_size": 4},
    "cached tokens": {"cached": True, "mini_batch_tokens": 50},
    "matryoshka": {"matryoshka_dims": (8, 16)},
    "cached matryoshka": {"matryoshka_dims": (8, 16), "cached": True, "mini_batch_size": 4},
}


@pytest.mark.parametrize("kind", LOSSES)
def test_every_gradient_is_that_of_the_plain_step(small: Path, kind: str) -> None:
    encoder = made(small)
    settings = TrainSettings(scale=20, **LOSSES[kind])
    theirs = stepped(encoder, build_loss(encoder, settings), columns(encoder, prompt="query:"))
    with without_padding(build_loss(encoder, settings), encoder, "on", max_length=LONG) as (loss, _):
        ours = stepped(encoder, loss, columns(encoder, prompt="query:"))
    assert_equal_steps(ours, theirs)
    again = stepped(encoder, build_loss(encoder, settings), columns(encoder, prompt="query:"))
    assert again[0] == theirs[0]


@pytest.mark.parametrize(
    "family",
    [
        "qwen3",
        "gemma3_text",
        "gpt2",
        "opt",
        "gemma2",
        "llama+bidirectional",
        "gemma3_text+bidirectional",
        *ENCODERS_WITH_LAYERS,
    ],
)
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_families_and_poolings(tmp_path: Path, family: str, pooling: str) -> None:
    off = {"gpt2": {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}, "opt": {"dropout": 0}}.get(
        family, NO_DROPOUT.get(family, {})
    )
    encoder = made(save_tiny_encoder(tmp_path / "small", family, **off))
    encoder[1].pooling_mode = pooling
    loss = build_loss(encoder, TrainSettings(scale=20))
    theirs = stepped(encoder, loss, columns(encoder, prompt="query:"))
    with without_padding(loss, encoder, "auto", max_length=LONG) as (packed, decided):
        assert decided["packed"] is (family not in ("gemma2", "mpnet"))
        assert_equal_steps(stepped(encoder, packed, columns(encoder, prompt="query:")), theirs)


@pytest.mark.parametrize("cached", [False, True])
def test_full_training_with_recomputed_activations(small: Path, cached: bool) -> None:
    encoder = made(small, method="full")
    loss = build_loss(encoder, TrainSettings(scale=20, cached=cached, mini_batch_size=4))
    theirs = stepped(encoder, loss, columns(encoder))
    encoder.transformers_model.activation_checkpointing_enable({"use_reentrant": False})
    with without_padding(loss, encoder, "on", max_length=LONG) as (packed, _):
        assert_equal_steps(stepped(encoder, packed, columns(encoder)), theirs)


@pytest.mark.parametrize("what", ["scores", "vectors", "similarities", "data"])
@pytest.mark.parametrize("dimension", [32, 20])
def test_distilling(small: Path, what: str, dimension: int) -> None:
    encoder = made(small)
    settings = TrainSettings(scale=20, distil=what, teacher=None if what == "data" else "full")
    teacher = np.random.default_rng(0).normal(size=(18, dimension)).astype(np.float32)
    labels = torch.linspace(-1, 2, 12).reshape(6, 2) if what == "data" else torch.arange(18).reshape(6, 3)
    loss = build_loss(encoder, settings, None if what == "data" else teacher)
    theirs = stepped(encoder, loss, columns(encoder), labels)
    with without_padding(loss, encoder, "on", max_length=LONG) as (packed, _), count_tokens(encoder) as counts:
        assert_equal_steps(stepped(encoder, packed, columns(encoder), labels), theirs)
        assert len(counts) == 1


def test_gradcache_draws_the_same_dropout_again(tmp_path: Path) -> None:
    encoder = made(save_tiny_encoder(tmp_path / "small"), lora_dropout=0.3)
    encoder.transformers_model.config.attention_dropout = 0.2
    for layer in encoder.transformers_model.layers:
        layer.self_attn.attention_dropout = 0.2
    vectors: dict[bool, list[Tensor]] = {True: [], False: []}
    encoder.register_forward_hook(
        lambda module, args, output: vectors[torch.is_grad_enabled()].append(output["sentence_embedding"].detach().clone())
    )
    cached = build_loss(encoder, TrainSettings(cached=True, mini_batch_size=4))
    with without_padding(cached, encoder, "on", max_length=LONG) as (loss, _):
        stepped(encoder, loss, columns(encoder))
        assert [len(part) for part in vectors[False]] == [4, 2] * 3
        for first, again in zip(vectors[False], vectors[True], strict=True):
            assert torch.equal(first, again)
        stepped(encoder, loss, columns(encoder))
    assert not any(torch.equal(*pair) for pair in zip(vectors[True][:6], vectors[True][6:], strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_no_saved_file_names_the_packed_attention(small: Path, tmp_path: Path, method: str) -> None:
    encoder, folder = made(small, method=method), tmp_path / "saved"
    with packable(base_model(encoder)):
        assert base_model(encoder).config._attn_implementation == ATTENTION
        encoder.save_pretrained(str(folder), create_model_card=False)
    written = {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.json")}
    assert {"lora": "adapter_config.json", "full": "config.json"}[method] in written
    assert [name for name, text in written.items() if ATTENTION in text] == []


def test_distinct_texts_are_computed_once_and_without_padding(small: Path) -> None:
    encoder = made(small)
    inputs = columns(encoder)
    distinct = {
        tuple(ids[mask.bool()].tolist())
        for column in inputs
        for ids, mask in zip(column["input_ids"], column["attention_mask"], strict=True)
    }
    assert len(distinct) < 18
    loss = build_loss(encoder, TrainSettings())
    with without_padding(loss, encoder, "on", max_length=LONG) as (packed, _), count_tokens(encoder) as counts:
        stepped(encoder, packed, inputs)
    assert counts == [sum(map(len, distinct))]


def test_encode_gives_the_same_vectors_meanwhile(small: Path) -> None:
    encoder = made(small).eval()
    some = [*texts(20, 3), ""]
    expected = encoder.encode(some, convert_to_tensor=True)
    with without_padding(build_loss(encoder, TrainSettings()), encoder, "on", max_length=LONG):
        found = encoder.encode(some, convert_to_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert torch.equal(encoder.encode(some, convert_to_tensor=True), expected)


@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_text_that_is_swallowed_by_the_prompt_is_left_to_the_library(small: Path, pooling: str) -> None:
    encoder = made(small)
    encoder[1].pooling_mode = pooling
    # Both end in one token that starts with the blank, so that "of" ends where the prompt alone does.
    inputs = dict(encoder.preprocess(["of", "the dog of the bird"], prompt="the query "))
    assert inputs["attention_mask"].sum(dim=1).min() <= inputs["prompt_length"]
    expected = encoder(dict(inputs))["sentence_embedding"]
    with without_padding(build_loss(encoder, TrainSettings()), encoder, "on", max_length=LONG):
        torch.testing.assert_close(encoder(inputs)["sentence_embedding"], expected, atol=1e-6, rtol=0)


def test_off_is_the_plain_loss(small: Path) -> None:
    encoder = made(small)
    loss = build_loss(encoder, TrainSettings())
    with without_padding(loss, encoder, "off", max_length=LONG) as (same, decided):
        assert same is loss
    assert decided == {"packed": False, "obstacle": "not wanted"}


def test_a_model_that_cannot_is_named_when_packing_is_a_must(tmp_path: Path) -> None:
    encoder = made(save_tiny_encoder(tmp_path / "small", "gemma2"))
    loss = build_loss(encoder, TrainSettings())
    refused = pytest.raises(ConfigError, match=r"packing: its attention is eager, .*; set packing to auto")
    with refused, without_padding(loss, encoder, "on", max_length=LONG):
        pass
