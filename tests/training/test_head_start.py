"""The last linear layer solved for a teacher's vectors: against the formula, a layer that is known, and what must stay as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.prune import prune_model
from prune2vec.training.train import train_encoder
from tests.tiny_encoders import TINY_ENCODERS
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_train import StopAt, assert_same_run, curve

HEAD = "3_Dense/model.safetensors"
FULL: dict[str, Any] = {
    **{"steps": 6, "batch_size": 8, "learning_rate": 1e-5, "save_every": 2, "dtype": "float32", "device": "cpu"},
    "method": "full",
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY_ENCODERS["embeddinggemma"].save(tmp_path_factory.mktemp("start") / "teacher")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "corpus.txt"
    file.write_text("\n".join(text for row in rows(150) for text in row.texts) + "\n")
    return file


def cut(model: Path, folder: Path, layers: int = 2) -> Path:
    profile = profile_model(str(model), rows(8), groups=1, group_size=8, dtype="float32", device="cpu")
    return prune_model(str(model), make_plan(profile, method="depth", depth=layers), folder)


@pytest.fixture(scope="module")
def student(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher with all its layers and a last head of random numbers."""
    layers = json.loads((teacher / "config.json").read_text())["num_hidden_layers"]
    folder = cut(teacher, tmp_path_factory.mktemp("cut") / "student", layers)
    weight = load_file(folder / HEAD)["linear.weight"]
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    save_file({"linear.weight": drawn * weight.norm() / drawn.norm()}, folder / HEAD)
    return folder


def start_of(folder: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads((folder / "prune2vec.json").read_text())["train"]["teacher"]["start"]
    return found


def test_a_head_that_was_lost_is_found_again(teacher: Path, student: Path, corpus: Path, tmp_path: Path) -> None:
    train_encoder(student, None, tmp_path / "out", texts=corpus, teacher=teacher, **{**FULL, "steps": 60})
    start = start_of(tmp_path / "out")
    assert start is not None and 440 <= start["texts"] <= 450, "all that the run learns, once"
    assert start["cosine_before"] < 0.5 < 0.99 < start["cosine"]
    assert curve(tmp_path / "out")[0]["loss"] < 0.01, "the first step begins there"
    solved, lost = (load_file(folder / HEAD)["linear.weight"] for folder in (tmp_path / "out", student))
    torch.testing.assert_close(solved.norm(), lost.norm(), rtol=1e-2, atol=0)
    ours, theirs = (
        SentenceTransformer(str(folder), device="cpu").encode(["the quick fox 7", "a lazy row"], prompt_name="document")
        for folder in (tmp_path / "out", teacher)
    )
    assert (ours * theirs).sum(1).min() > 0.99


def test_a_text_under_several_prompts_is_left_out_as_one(teacher: Path, student: Path, corpus: Path, tmp_path: Path) -> None:
    prompts = ("query", "document")
    train_encoder(student, None, tmp_path / "out", texts=corpus, teacher=teacher, prompts=prompts, **{**FULL, "steps": 100})
    start = start_of(tmp_path / "out")
    assert start is not None and 400 <= start["texts"] <= len(set(corpus.read_text().splitlines()))


def test_a_killed_run_keeps_the_start_and_its_record(teacher: Path, student: Path, corpus: Path, tmp_path: Path) -> None:
    settings = {**FULL, "teacher": teacher, "teacher_vectors": tmp_path / "kept", "texts": corpus}
    train_encoder(student, None, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(student, None, tmp_path / "cut", callbacks=[StopAt(5)], **settings)
    assert train_encoder(student, None, tmp_path / "cut", **settings).resumed_from == 4
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    assert start_of(tmp_path / "whole") == start_of(tmp_path / "cut") is not None
    assert start_of(tmp_path / "cut")["texts"] == 48  # type: ignore[index]


def test_what_is_best_already_stays(teacher: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = cut(teacher, tmp_path / "whole", json.loads((teacher / "config.json").read_text())["num_hidden_layers"])
    train_encoder(whole, None, tmp_path / "out", texts=corpus, teacher=teacher, **FULL)
    start = start_of(tmp_path / "out")
    assert start is not None and start["cosine"] == start["cosine_before"] == pytest.approx(1)
    assert curve(tmp_path / "out")[0]["loss"] < 1e-5
    assert "was solved" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("heads", "settings"),
    [
        (None, {"method": "lora"}),
        (None, {"distil": "similarities"}),
        (None, {"distil_distance": "squared"}),
        (None, {"depths": (1,)}),
        ((("Dense", {"in_features": 32, "out_features": 32, "bias": True, "activation_function": "torch.nn.Tanh"}),), {}),
        ((), {}),
    ],
    ids=["frozen", "similarities", "squared", "depths", "activation", "none"],
)
def test_where_there_is_nothing_to_solve(
    corpus: Path, tmp_path: Path, heads: Any, settings: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    kind = TINY_ENCODERS["embeddinggemma"]
    model = (kind if heads is None else replace(kind, heads=heads)).save(tmp_path / "model")
    small = cut(model, tmp_path / "small")
    train_encoder(
        small, None, tmp_path / "out", texts=corpus, teacher=model, **{**FULL, "steps": 2, "save_every": 2, **settings}
    )
    assert start_of(tmp_path / "out") is None and "was solved" not in capsys.readouterr().err


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_projection_is_solved_whatever_is_trained_beside(small: Path, corpus: Path, tmp_path: Path, method: str) -> None:
    wide = save_tiny_encoder(tmp_path / "wide", seed=6, layers=3, hidden_size=48)
    settings = {**FULL, "method": method, "teacher": wide, "teacher_vectors": tmp_path / "kept", "texts": corpus}
    train_encoder(small, None, tmp_path / "out", keep_projection=True, **{**settings, "steps": 60})
    start = start_of(tmp_path / "out")
    assert start is not None and start["cosine"] > start["cosine_before"] + 0.3
    assert curve(tmp_path / "out")[0]["loss"] == pytest.approx(1 - start["cosine"], abs=0.1)
