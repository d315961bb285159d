"""What a GPU computes is what the CPU computes. They need a CUDA device: ``pytest -m gpu tests/gpu``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prune2vec.data.triplet import write_triplets
from prune2vec.encoding.engine import Engine
from prune2vec.evaluation.evaluate import evaluate_encoder
from prune2vec.forward.batches import packing_obstacle, token_states
from prune2vec.forward.packed import packable
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.train import train_encoder
from tests.encoding.test_engine import texts
from tests.forward.test_packed import LENGTHS, PACKS, adapted, alone, gradients, made_rows
from tests.tiny import save_tiny
from tests.tiny_encoders import TINY_ENCODERS
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_train import DATA, QUICK, curve

pytestmark = pytest.mark.gpu
FOUR: dict[str, Any] = {**QUICK, "steps": 4, "lora_dropout": 0.0, "dtype": "float32"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_encoder(tmp_path_factory.mktemp("llama") / "small")


@pytest.mark.parametrize("family", PACKS)
def test_packed_states_and_gradients(family: str) -> None:
    model, given = adapted(family), made_rows(*LENGTHS)
    expected = alone(model, given)
    theirs = gradients(model, expected)
    model.to("cuda")
    assert packing_obstacle(model, max_length=64) == ""
    with packable(model):
        found = token_states(model, given)
        ours = gradients(model, found.cpu())
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
    assert set(ours) == set(theirs) != set()
    for name, gradient in theirs.items():
        assert (ours[name].cpu() - gradient).norm() <= 1e-4 * gradient.norm().clamp(min=1e-3), name


@pytest.mark.parametrize("name", sorted(TINY_ENCODERS))
def test_vectors(name: str, tmp_path: Path) -> None:
    folder, given = TINY_ENCODERS[name].save(tmp_path / "encoder"), texts(40)[2:]
    expected, found = (Engine(load_encoder(folder, device=device, dtype="float32")).encode(given) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("stream", ["off", "on"])
def test_every_scorer(stream: str, tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    cpu, gpu = (
        profile_model(
            str(model),
            DATA,
            groups=1,
            group_size=8,
            max_length=32,
            scorers=["layer-loss", "redundancy", "magnitude", "angular-distance"],
            dtype="float32",
            device=device,
            stream=stream,
        ).to_json()
        for device in ("cpu", "cuda")
    )
    assert gpu["layer_loss"]["loss"] == pytest.approx(cpu["layer_loss"]["loss"], rel=1e-4)
    ours, theirs = (numbers(one["sections"]) for one in (gpu, cpu))
    assert len(ours) > 20
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def numbers(value: Any) -> list[float]:
    """Return all fractions in what a scorer found, in order."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for one in value for number in numbers(one)]
    return [value] if isinstance(value, float) else []


@pytest.mark.parametrize("settings", [{}, {"method": "full"}, {"depths": [1]}, {"cached": True, "mini_batch_size": 2}])
def test_training(small: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    found: dict[str, list[float]] = {}
    for name, more in {
        "cpu": {"device": "cpu"},
        "gpu": {"device": "cuda"},
        "plain": {"device": "cuda", "packing": "off"},
    }.items():
        train_encoder(small, DATA, tmp_path / name, **{**FOUR, **settings, **more})
        found[name] = [line["loss"] for line in curve(tmp_path / name)]
    assert found["gpu"] == pytest.approx(found["cpu"], rel=1e-3)
    assert found["plain"] == pytest.approx(found["cpu"], rel=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_in_bf16(small: Path, tmp_path: Path, method: str) -> None:
    found = {}
    for dtype in ("float32", "bfloat16"):
        train_encoder(small, DATA, tmp_path / dtype, **{**FOUR, "method": method, "device": "cuda", "dtype": dtype})
        found[dtype] = [line["loss"] for line in curve(tmp_path / dtype)]
    assert found["bfloat16"] == pytest.approx(found["float32"], rel=0.1)


def test_learning_from_a_teacher(small: Path, tmp_path: Path) -> None:
    teacher = save_tiny_encoder(tmp_path / "teacher", seed=3, layers=3)
    found = {}
    for device in ("cpu", "cuda"):
        settings = {**FOUR, "device": device, "teacher": str(teacher), "preset": "distil"}
        train_encoder(small, DATA, tmp_path / device, **settings)
        found[device] = [line["loss"] for line in curve(tmp_path / device)]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=1e-3)


def test_scores(small: Path, tmp_path: Path) -> None:
    write_triplets(rows(40), tmp_path / "held-out.jsonl")
    cpu, gpu = (
        evaluate_encoder(small, data=tmp_path / "held-out.jsonl", device=device, dtype="float32") for device in ("cpu", "cuda")
    )
    assert gpu.score == pytest.approx(cpu.score, abs=2e-3)
    assert gpu.memory["cuda"]
