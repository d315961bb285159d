"""What every export target must do; a new one gets these tests by being registered."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from prune2vec.errors import CheckpointError, ConfigError
from prune2vec.exporting.export import export_encoder
from prune2vec.exporting.target import targets
from prune2vec.models.kept import Kept
from prune2vec.pruning.encoder import load_encoder, save_encoder
from tests.exporting.encoders import cut_encoder, export_loaded, installed_targets, plan_for, tiny_encoder


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose blocks are alike, as ``prune`` writes it."""
    scratch = tmp_path_factory.mktemp("even")
    save_encoder(tiny_encoder(scratch, num_hidden_layers=2), scratch / "encoder")
    return scratch / "encoder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uneven encoder as ``prune`` writes it."""
    scratch = tmp_path_factory.mktemp("uneven")
    encoder = tiny_encoder(scratch, num_hidden_layers=3)
    cut_encoder(encoder, plan_for(encoder, Kept.of(range(3), drop_attention=[2], drop_mlp=[1]), {2: 11}))
    save_encoder(encoder, scratch / "encoder")
    return scratch / "encoder"


@pytest.mark.parametrize("target", installed_targets())
def test_a_folder_is_exported_and_an_older_export_replaced(folder: Path, even: Path, tmp_path: Path, target: str) -> None:
    output = tmp_path / "out"
    # llama.cpp has no uneven models.
    folder = even if target == "gguf" else folder
    export_encoder(folder, target=target, output=output)
    done = export_encoder(folder, target=target, output=output)
    about = json.loads((output / "export.json").read_text())
    assert about["format"] == "prune2vec.export/1" and about["target"] == target and about["encoder"] == "encoder"
    assert (about["dim"], about["max_length"], about["pooling"], about["normalize"]) == (32, 48, "mean", True)
    assert about["notes"] == done.to_json()["notes"] and about["parity"] == done.to_json()["parity"]
    assert about["parity"] or about["notes"], "what was not compared must be told"
    assert str(output) in done.render() and all(note in done.render() for note in done.notes)
    assert "# encoder " in (output / "README.md").read_text()
    assert (output / "tokenizer.json").is_file()


@pytest.mark.parametrize("target", installed_targets())
def test_a_folder_with_other_things_is_not_replaced(folder: Path, tmp_path: Path, target: str) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=tmp_path.name):
        export_encoder(folder, target=target, output=tmp_path)
    with pytest.raises(CheckpointError):
        export_encoder(folder, target=target, output=folder)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("target", installed_targets())
def test_refusals_leave_nothing_and_do_not_change_the_encoder(tmp_path: Path, target: str) -> None:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=1)
    encoder[1] = Pooling(32, pooling_mode=("mean", "max"))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match="one pooling"):
        export_loaded(encoder, target=target, output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("target", installed_targets())
def test_a_model_folder_is_no_encoder(tmp_path: Path, target: str) -> None:
    with pytest.raises(CheckpointError, match=r"no modules\.json"):
        export_encoder(tmp_path, target=target, output=tmp_path.parent / f"{tmp_path.name}-out")


@pytest.mark.parametrize("target", targets.names())
def test_has_a_line_for_the_list_of_methods(target: str) -> None:
    assert (inspect.getdoc(targets.get(target)) or "").endswith(".")


def test_a_typo_names_the_close_match(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no export target is called 'vlm'; did you mean 'vllm'\?"):
        export_encoder(folder, target="vlm", output=tmp_path / "out")


def test_a_precision_that_a_target_lacks_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vllm has no precision 'int8'; it writes the encoder's own"):
        export_encoder(folder, target="vllm", output=tmp_path / "out", precision="int8")


def test_the_uneven_folder_is_the_encoder_that_was_cut(folder: Path) -> None:
    blocks = load_encoder(folder, device="cpu", dtype="float32")[0].auto_model.layers
    assert blocks[2].mlp.up_proj.out_features == 11


def test_the_names_cost_no_torch() -> None:
    script = (
        "import sys\nfrom prune2vec.exporting.target import targets\nassert targets.names()\n"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'numpy', 'onnx'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
