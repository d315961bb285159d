import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

from prune2vec.errors import CheckpointError
from prune2vec.pruning.encoder import check_writable, load_encoder, read_record, save_encoder
from prune2vec.pruning.encoder_check import check_trainable
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import FAMILIES, save_tiny

TEXTS = ["quick brown fox", "the lazy dog " * 30, "12  34"]


def encoder_folder(tmp_path: Path, family: str = "llama") -> Path:
    model = save_tiny(tmp_path / "m", family)
    return prune_model(str(model), plan_for(model, [0, 2]), tmp_path / "encoder", max_length=128)


@pytest.mark.parametrize("family", FAMILIES)
def test_changed_encoder_is_saved_and_reloaded_equal(tmp_path: Path, family: str) -> None:
    encoder = load_encoder(encoder_folder(tmp_path, family), device="cpu", dtype="float32")
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01)
    expected = encoder.encode(TEXTS)
    parity = save_encoder(encoder, tmp_path / "again", record={"train": {"steps": 3}})
    again = load_encoder(tmp_path / "again", device="cpu", dtype="float32").encode(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-6, rtol=0)
    assert parity.max_difference <= 1e-6
    assert read_record(tmp_path / "again") == {"train": {"steps": 3}}


def test_saving_replaces_at_the_last_moment(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    before = (folder / "model.safetensors").read_bytes()
    next(encoder.parameters()).data.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        save_encoder(encoder, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "m"]


def test_training_mode_survives(tmp_path: Path) -> None:
    encoder = load_encoder(encoder_folder(tmp_path), device="cpu", dtype="float32")
    encoder.train()
    save_encoder(encoder, tmp_path / "again")
    assert encoder.training


def test_typo_names_the_close_match(tmp_path: Path) -> None:
    encoder_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"did you mean .*encoder"):
        load_encoder(tmp_path / "encodr")


def test_a_model_folder_is_not_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no modules\.json"):
        load_encoder(save_tiny(tmp_path / "m"))


def test_a_damaged_folder_is_one_line(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot load the encoder") as caught:
        load_encoder(folder, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_encoder_that_cuts_its_vectors_goes_on_doing_so(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncate_dim": 8}))
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    check_trainable(folder)
    check_writable(encoder)
    save_encoder(encoder, tmp_path / "again")
    again = load_encoder(tmp_path / "again", device="cpu", dtype="float32").encode(TEXTS)
    assert again.shape[1] == 8
    np.testing.assert_allclose(again, encoder.encode(TEXTS), atol=1e-6)


def test_a_hub_id_without_an_encoder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"^nobody/typo is not an encoder: no modules\.json is there"):
        load_encoder("nobody/typo")

    def not_found(*args: object, **rest: object) -> str:
        response = SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("404 Client Error.", response=cast("Any", response))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", not_found)
    with pytest.raises(CheckpointError, match=r"^the hub has no model 'nobody/typo', or it is private: check the name"):
        load_encoder("nobody/typo")
