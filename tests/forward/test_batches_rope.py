"""A text's vector does not depend on its neighbours where the longest text of a pass decides on the rotary frequencies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel

from prune2vec.encoding.engine import Engine
from prune2vec.forward.backbone import load_backbone
from prune2vec.forward.batches import forget_longest_text, length_kind, token_states
from prune2vec.forward.packed import packable
from prune2vec.models.tokens import TokenRow, length_batches
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.packed_loss import token_pass
from tests.forward.test_depths import pooled_depths
from tests.forward.test_packed import alone, made_rows
from tests.pruning.plans import plan_for
from tests.tiny import tiny_model, tiny_tokenizer

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0, 8.0, 16.0, 32.0],
    "original_max_position_embeddings": 16,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "longrope": (
        "phi3",
        {"max_position_embeddings": 128, "original_max_position_embeddings": 16, "rope_parameters": LONGROPE},
    ),
    "dynamic": ("llama", {"max_position_embeddings": 16, "rope_parameters": DYNAMIC}),
}
# Around the limit of 16 tokens, and far beyond.
LENGTHS = (5, 16, 17, 60, 3, 40, 17, 15, 61)
WORDS = ("quick ", "a", "the lazy dog " * 12, "fox " * 9, "spring light " * 3, "birds " * 16, "x y")


@pytest.fixture(params=KINDS)
def changes(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return KINDS[request.param]


def saved(folder: Path, family: str, changes: dict[str, Any]) -> Path:
    tiny_model(family, causal_lm=True, **changes).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def each_alone(family: str, changes: dict[str, Any], rows: list[list[int]]) -> list[torch.Tensor]:
    """The states of each row by a model that has never seen another."""
    with torch.no_grad():
        return [alone(tiny_model(family, **changes), [row]) for row in rows]


def test_the_longest_text_does_decide_in_transformers(changes: tuple[str, dict[str, Any]]) -> None:
    """What this file guards against is there: without it, its tests would say nothing."""
    rows, model = made_rows(*LENGTHS), tiny_model(changes[0], **changes[1])
    ids = torch.zeros(2, 60, dtype=torch.long)
    ids[0, :5], ids[1] = torch.tensor(rows[0]), torch.tensor(rows[3])
    with torch.no_grad():
        together = model(input_ids=ids, use_cache=False)[0][0, :5]
    assert (together - each_alone(*changes, rows)[0]).abs().max() > 1e-2


@pytest.mark.parametrize("budget", [None, 1, 64, 16384])
def test_packed_rows(changes: tuple[str, dict[str, Any]], budget: int | None) -> None:
    rows, model = made_rows(*LENGTHS), tiny_model(changes[0], **changes[1])
    expected = torch.cat(each_alone(*changes, rows))
    forget_longest_text(model)
    for _ in range(2):  # The second time after all lengths have been seen.
        with torch.no_grad(), packable(model):
            torch.testing.assert_close(token_states(model, rows, token_budget=budget), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stream", ["off", "on"])
@pytest.mark.parametrize("packs", [True, False])
def test_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: tuple[str, dict[str, Any]], stream: Any, packs: bool
) -> None:
    if not packs:
        monkeypatch.setattr("prune2vec.forward.runner.packing_obstacle", lambda *args, **options: "not wanted")
    folder = saved(tmp_path / "m", *changes)
    rows = [TokenRow(tuple(row), 0) for row in made_rows(*LENGTHS)]
    found = {
        budget: pooled_depths(
            load_backbone(str(folder), dtype="float32", device="cpu", stream=stream),
            rows,
            pooling="mean",
            token_budget=budget,
        )
        for budget in (64, 16384)
    }
    expected = torch.stack([states.mean(dim=0) for states in each_alone(*changes, [list(row.ids) for row in rows])])
    for pooled in found.values():
        # Rows by depths; the last depth is the whole model.
        last = pooled[-1] if pooled.shape[1] == len(rows) else pooled[:, -1]
        torch.testing.assert_close(last.float(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[64], found[16384], rtol=0, atol=1e-5)


@pytest.mark.parametrize("packs", [True, False])
def test_training(changes: tuple[str, dict[str, Any]], packs: bool, tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path, *changes)
    column = encoder.preprocess(list(WORDS))
    with torch.no_grad(), token_pass(encoder, packs=packs, token_budget=4096):
        found = encoder[0](column)["token_embeddings"][0]
    rows = [ids[mask.bool()].tolist() for ids, mask in zip(column["input_ids"], column["attention_mask"], strict=True)]
    with torch.no_grad():
        expected = [alone(AutoModel.from_pretrained(tmp_path / "out").eval(), [row]) for row in rows]
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def encoder_of(folder: Path, family: str, changes: dict[str, Any]) -> Any:
    model = saved(folder / "m", family, changes)
    out = prune_model(str(model), plan_for(model, [0, 1, 2]), folder / "out", max_length=64)
    if family == "llama":
        # Dynamic scaling reaches beyond the positions that the config tells.
        file = out / "sentence_bert_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "max_seq_length": 64}))
    return load_encoder(out, device="cpu", dtype="float32")


@pytest.mark.parametrize("budget", [64, 16384])
@pytest.mark.parametrize("packs", [True, False])
def test_the_engine(changes: tuple[str, dict[str, Any]], tmp_path: Path, budget: int, packs: bool) -> None:
    encoder = encoder_of(tmp_path, *changes)
    expected = [load_encoder(tmp_path / "out", device="cpu", dtype="float32").encode([text], batch_size=1)[0] for text in WORDS]
    engine = Engine(encoder, token_budget=budget)
    engine.packs = packs
    for _ in range(2):
        np.testing.assert_allclose(engine.encode(WORDS), np.stack(expected), atol=1e-5, rtol=0)
    for text, vector in zip(WORDS, expected, strict=True):
        np.testing.assert_allclose(engine.encode([text])[0], vector, atol=1e-5, rtol=0)


def test_kinds_split_batches_and_nothing_else() -> None:
    model = tiny_model("phi3", **KINDS["longrope"][1])
    batches = length_batches(LENGTHS, token_budget=16384, packed=True, kind=length_kind(model))
    assert [[LENGTHS[place] for place in batch] for batch in batches] == [[61, 60, 40, 17, 17], [16, 15, 5, 3]]
    plain = length_batches(LENGTHS, token_budget=16384, packed=True, kind=length_kind(tiny_model("llama")))
    assert len(plain) == 1
