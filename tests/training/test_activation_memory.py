"""Gradient checkpointing is used when asked for, or when the measured activations do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn

from prune2vec.machine import free_memory_bytes
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.adapters import add_lora, base_model, choose_trained
from prune2vec.training.objective import build_loss
from prune2vec.training.packed_loss import activation_bytes_per_token, choose_checkpointing, without_padding
from prune2vec.training.train_settings import TrainSettings
from tests.training.encoders import save_tiny_encoder
from tests.training.test_packed_loss import assert_equal_steps, columns, made, stepped


@pytest.fixture
def encoder(small: Path) -> SentenceTransformer:
    return load_encoder(small, device="cpu", dtype="float32")


def is_on(encoder: SentenceTransformer) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in encoder.modules())


def test_bytes_are_those_that_autograd_keeps() -> None:
    class Squares(SentenceTransformer):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.weight = nn.Parameter(torch.ones(7))

        @property
        def device(self) -> torch.device:
            return torch.device("cpu")

        def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:  # type: ignore[override]
            states = features["input_ids"].float().unsqueeze(-1) * self.weight  # Keeps the ids as fp32: 4 bytes a token.
            return {"out": states.square()}  # Keeps the states: 28 bytes a token; weights do not count.

    assert activation_bytes_per_token(Squares(), {"input_ids": torch.ones(5, 3, dtype=torch.long)}) == 32


def test_deeper_models_keep_more_and_the_measure_changes_nothing(encoder: SentenceTransformer, tmp_path: Path) -> None:
    deep = load_encoder(save_tiny_encoder(tmp_path / "deep", layers=6), device="cpu", dtype="float32")
    features = encoder.eval().preprocess(["the fox jumps"] * 4)
    torch.manual_seed(3)
    shallow_bytes, deep_bytes = (activation_bytes_per_token(model, features) for model in (encoder, deep))
    assert 2.5 < deep_bytes / shallow_bytes < 3.1
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert not encoder.training
    assert set(features) == {"input_ids", "attention_mask", "modality"}


@pytest.mark.parametrize(("asked", "expected"), [("on", True), ("off", False), ("auto", False)])
def test_asked_for_or_not_needed(encoder: SentenceTransformer, asked: str, expected: bool) -> None:
    largest = [encoder.preprocess(["the fox jumps"] * 4)] * 3
    choice = choose_checkpointing(encoder, asked, largest, rows=4)  # type: ignore[arg-type]
    assert choice["on"] is is_on(encoder) is expected
    if asked == "auto":
        per_token = activation_bytes_per_token(encoder, largest[0])
        assert choice["activation_bytes"] == round(per_token * 3 * 4 * largest[0]["input_ids"].shape[1])


def test_auto_switches_on_when_activations_do_not_fit(encoder: SentenceTransformer) -> None:
    largest = [encoder.preprocess(["the fox jumps"] * 4)] * 3
    rows = free_memory_bytes(encoder.device) // 1000
    assert choose_checkpointing(encoder, "auto", largest, rows=rows)["on"]
    assert is_on(encoder)


def test_what_the_optimiser_will_take_is_not_free(encoder: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prune2vec.training.packed_loss.free_memory_bytes", lambda device: 10**9)
    largest = [encoder.preprocess(["the fox jumps"] * 4)] * 3
    trained = sum(parameter.numel() for parameter in encoder.requires_grad_(True).parameters())
    assert choose_checkpointing(encoder, "auto", largest, rows=4)["free_bytes"] == 10**9 - 12 * trained
    assert choose_checkpointing(encoder.requires_grad_(False), "auto", largest, rows=4)["free_bytes"] == 10**9


def test_without_padding_only_real_tokens_count(encoder: SentenceTransformer) -> None:
    column = encoder.preprocess(["the fox jumps over the lazy dog", "a", "the dog", "a b"])
    lengths = sorted(column["attention_mask"].sum(dim=1).tolist())
    loss = build_loss(encoder, TrainSettings())
    with without_padding(loss, encoder, "on", max_length=64):
        choice = choose_checkpointing(encoder, "auto", [column] * 3, rows=2, padded=False)
        per_token = activation_bytes_per_token(encoder, column, padded=False)
    assert choice["activation_bytes"] == round(per_token * 3 * (lengths[-1] + lengths[-2]))
    # The states of padding are not kept: per real token it comes to no more than per padded one before.
    assert per_token == pytest.approx(activation_bytes_per_token(encoder, column), rel=0.2)


def test_layers_below_the_trained_ones_keep_nothing(tmp_path: Path) -> None:
    folder = save_tiny_encoder(tmp_path / "deep", layers=6)
    kept = []
    for top in (6, 3, 1):
        deep = load_encoder(folder, device="cpu", dtype="float32")
        add_lora(deep, TrainSettings(train_top=top))
        column = deep.preprocess(["the fox jumps over the lazy dog"] * 2)
        with without_padding(build_loss(deep, TrainSettings()), deep, "on", max_length=64):
            kept.append(activation_bytes_per_token(deep, column, padded=False))
    assert kept[1] < 0.6 * kept[0]
    assert kept[2] < 0.45 * kept[1]


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_recomputing_draws_no_frozen_layer_into_the_backward_pass(tmp_path: Path, method: str, packing: str) -> None:
    folder = save_tiny_encoder(tmp_path / "deep", layers=3)
    steps = []
    for asked in ("off", "on"):
        deep = made(folder, method=method, train_top=1) if method == "lora" else made(folder, method=method)
        if method == "full":
            choose_trained(deep, TrainSettings(method="full", train_top=1))
        needs = need_gradients(base_model(deep).layers)
        loss = build_loss(deep, TrainSettings(scale=20))
        with without_padding(loss, deep, packing, max_length=64) as (chosen, _):  # type: ignore[arg-type]
            choose_checkpointing(deep, asked, [], rows=1)  # type: ignore[arg-type]
            steps.append(stepped(deep, chosen, columns(deep)))
        assert is_on(deep) is (asked == "on")
        assert needs == [{False}, {False}, {True}]
    assert_equal_steps(steps[1], steps[0])


def need_gradients(blocks: Iterable[nn.Module]) -> list[set[bool]]:
    """Return, for each block, whether the outputs that it gives from now on need gradients; passes without any do not count."""
    needs: list[set[bool]] = []
    for block in blocks:
        needs.append(set())

        def note(module: nn.Module, args: Any, output: Tensor, seen: set[bool] = needs[-1]) -> None:
            if torch.is_grad_enabled():
                seen.add(output.requires_grad)

        block.register_forward_hook(note)
    return needs
