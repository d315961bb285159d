"""Heads behind the pooling: trained with the model or frozen beside adapters, saved, resumed and read back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from prune2vec.errors import TrainingError
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import RECORD
from prune2vec.pruning.prune import prune_model
from prune2vec.training.adapters import load_weights
from prune2vec.training.train import train_encoder
from tests.tiny_encoders import TINY_ENCODERS
from tests.training.encoders import rows, save_tiny_encoder
from tests.training.test_train import QUICK, StopAt

HEADS = ("2_Dense/model.safetensors", "3_Dense/model.safetensors")
DATA = rows(32)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    model = replace(TINY_ENCODERS["embeddinggemma"], head_dtype=torch.float16).save(folder / "m")
    (model / "README.md").write_text('{"matryoshka_dims": [32, 16]}')
    profile = profile_model(str(model), DATA[:8], groups=1, group_size=8, dtype="float32", device="cpu")
    return prune_model(str(model), make_plan(profile, method="depth", depth=2), folder / "pruned")


def head_weights(folder: Path) -> dict[str, torch.Tensor]:
    return {file: load_file(folder / file)["linear.weight"] for file in HEADS}


def vectors(folder: Path) -> np.ndarray:
    return SentenceTransformer(str(folder), device="cpu").encode(["the quick fox", "a row"], show_progress_bar=False)


@pytest.mark.parametrize(
    "how",
    [{"method": "lora"}, {"method": "full"}, {"method": "full", "train_top": 1}, {"method": "lora", "packing": "off"}],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_heads_are_saved_and_a_resumed_run_ends_alike(
    pruned: Path, tmp_path: Path, how: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**QUICK, "steps": 6, "save_every": 2, **how}
    train_encoder(pruned, DATA, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        train_encoder(pruned, DATA, tmp_path / "resumed", callbacks=[StopAt(5)], **settings)
    assert train_encoder(pruned, DATA, tmp_path / "resumed", **settings).resumed_from == 4
    before, after = head_weights(pruned), head_weights(tmp_path / "whole")
    for file, weight in head_weights(tmp_path / "resumed").items():
        assert weight.dtype == before[file].dtype == torch.float16
        torch.testing.assert_close(weight, after[file], rtol=0, atol=0)
        assert torch.equal(after[file], before[file]) == (how["method"] == "lora")
    np.testing.assert_allclose(vectors(tmp_path / "resumed"), vectors(tmp_path / "whole"), atol=1e-6)
    assert np.abs(vectors(tmp_path / "whole") - vectors(pruned)).max() > 1e-3
    encoder = SentenceTransformer(str(tmp_path / "whole"), device="cpu")
    assert [type(module).__name__ for module in encoder][1:] == ["Pooling", "Dense", "Dense", "Normalize"]
    assert encoder.prompts == TINY_ENCODERS["embeddinggemma"].prompts
    said = capsys.readouterr().err
    assert ("Dense 32 -> 96, Dense 96 -> 32 stays as it is" in said) == (how["method"] == "lora")
    assert "meant to be cut to 16 dimensions too; give matryoshka_dims 16" in said


def test_an_encoder_made_elsewhere_says_to_what_it_was_trained_to_be_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = save_tiny_encoder(tmp_path / "small")
    (small / RECORD).unlink()
    train_encoder(small, DATA, tmp_path / "cut", **{**QUICK, "steps": 2}, matryoshka_dims=(16, 8))
    assert "meant to be cut" not in capsys.readouterr().err
    assert 'trained to be cut: `"matryoshka_dims": [16, 8]`' in (tmp_path / "cut" / "README.md").read_text()
    train_encoder(tmp_path / "cut", DATA, tmp_path / "again", **{**QUICK, "steps": 2})
    assert "meant to be cut to 8,16 dimensions too; give matryoshka_dims 8,16" in capsys.readouterr().err


def test_bf16_trains_with_heads_in_fp32(pruned: Path, tmp_path: Path) -> None:
    for method in ("lora", "full"):
        train_encoder(pruned, DATA, tmp_path / method, **{**QUICK, "steps": 2, "dtype": "bfloat16", "method": method})
        assert np.isfinite(vectors(tmp_path / method)).all()


def test_gradients_through_heads_are_those_of_sentence_transformers(pruned: Path, tmp_path: Path) -> None:
    """One step without padding and one with: the same losses and the same heads."""
    for packing in ("on", "off"):
        train_encoder(pruned, DATA, tmp_path / packing, **{**QUICK, "steps": 3, "method": "full", "packing": packing})
    ours, theirs = head_weights(tmp_path / "on"), head_weights(tmp_path / "off")
    for file, weight in ours.items():
        torch.testing.assert_close(weight.float(), theirs[file].float(), rtol=0, atol=2e-3)


def test_a_checkpoint_without_its_heads_is_refused(pruned: Path, tmp_path: Path) -> None:
    encoder = SentenceTransformer(str(pruned), device="cpu")
    encoder.save_pretrained(str(tmp_path / "checkpoint"), create_model_card=False)
    load_weights(encoder, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "3_Dense" / "model.safetensors").unlink()
    with pytest.raises(TrainingError, match="3_Dense does not fit its model"):
        load_weights(encoder, tmp_path / "checkpoint")


def test_an_encoder_from_elsewhere_trains_too(tmp_path: Path) -> None:
    model = TINY_ENCODERS["residual"].save(tmp_path / "m")
    train_encoder(model, DATA, tmp_path / "out", **{**QUICK, "steps": 2, "method": "full"})
    assert [type(module).__name__ for module in SentenceTransformer(str(tmp_path / "out"), device="cpu")][2:] == [
        "Dense",
        "Dense",
    ]
