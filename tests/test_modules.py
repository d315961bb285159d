"""The module of uneven encoders: plain sentence-transformers loads it with trust, strictly, and runs no foreign code."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import layout_of
from prune2vec.modules import UnevenTransformer
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.parity import PROBE_TEXTS
from prune2vec.pruning.portable import UNEVEN_MODULE
from tests.pruning.uneven import cut_tiny

TEXTS = list(PROBE_TEXTS)


def test_trust_is_asked_for_by_sentence_transformers(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path)
    with pytest.raises(ValueError, match=r"prune2vec\.modules\.UnevenTransformer.*\n.*trust_remote_code=True"):
        SentenceTransformer(str(out), device="cpu")


def test_the_name_in_the_folder_is_the_class() -> None:
    assert f"{UnevenTransformer.__module__}.{UnevenTransformer.__qualname__}" == UNEVEN_MODULE


def test_trust_runs_no_code_of_the_folder(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path)
    mark = tmp_path / "ran"
    for name in ("prune2vec", "modules", "evil"):
        (out / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass UnevenTransformer: pass\n")
    for name, entry in (("config.json", "AutoConfig"), ("tokenizer_config.json", "AutoTokenizer")):
        entries = json.loads((out / name).read_text())
        code = "evil.UnevenTransformer"
        entries["auto_map"] = {entry: [code, code] if entry == "AutoTokenizer" else code, "AutoModel": code}
        (out / name).write_text(json.dumps(entries))
    assert SentenceTransformer(str(out), device="cpu", trust_remote_code=True).encode("a").shape == (32,)
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "anything"])
def test_a_folder_that_says_it_is_something_else_runs_no_code_either(tmp_path: Path, kind: str) -> None:
    """Told of another kind of model, sentence-transformers leaves modules.json aside and builds a stock Transformer."""
    out = cut_tiny(tmp_path)
    mark = tmp_path / "ran"
    (out / "evil.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    for name, changes in (
        ("config_sentence_transformers.json", {"model_type": kind}),
        ("config.json", {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}, "model_type": "evil"}),
    ):
        (out / name).write_text(json.dumps({**json.loads((out / name).read_text()), **changes}))
    with pytest.raises(CheckpointError):
        load_encoder(out, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize(
    "kind", ["evil.Module", "sentence_transformers.models.Transformer", "sentence_transformers.models.Router"]
)
def test_other_modules_are_not_trusted(tmp_path: Path, kind: str) -> None:
    out = cut_tiny(tmp_path)
    modules = json.loads((out / "modules.json").read_text())
    modules[2]["type"] = kind
    (out / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="not part of Sentence Transformers"):
        load_encoder(out, device="cpu")


def test_saving_through_sentence_transformers_keeps_the_structure(tmp_path: Path) -> None:
    encoder = load_encoder(cut_tiny(tmp_path, attention=True, widths="uneven"), device="cpu", dtype="float32")
    encoder.save_pretrained(str(tmp_path / "again"), create_model_card=False)
    again = load_encoder(tmp_path / "again", device="cpu", dtype="float32")
    np.testing.assert_allclose(again.encode(TEXTS), encoder.encode(TEXTS), atol=1e-6, rtol=0)
    assert layout_of(again[0].auto_model) == layout_of(encoder[0].auto_model)
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        AutoModel.from_pretrained(tmp_path / "again")


def rewrite(folder: Path, name: str, tensor: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors.pop(name, None)
    if tensor is not None:
        tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("layers.2.mlp.up_proj.weight", None, "lacks tensor"),
        ("layers.2.mlp.up_proj.weight", torch.ones(7, 32), "tensor"),
        ("layers.1.mlp.up_proj.weight", torch.ones(48, 32), "has tensor"),
    ],
)
def test_weights_that_do_not_fit_name_the_tensor(tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str) -> None:
    out = cut_tiny(tmp_path)
    rewrite(out, name, tensor)
    with pytest.raises(CheckpointError, match=rf"{message}.*{name}") as caught:
        load_encoder(out, device="cpu")
    assert "\n" not in str(caught.value)


def test_sharded_weights(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path, attention=True, widths="uneven")
    encoder = load_encoder(out, device="cpu", dtype="float32")
    expected = encoder.encode(TEXTS)
    (out / "model.safetensors").unlink()
    other = tmp_path / "weights"
    encoder[0].auto_model.save_pretrained(other, max_shard_size="20KB")
    for file in other.glob("model*"):
        shutil.copy(file, out / file.name)
    assert len(list(out.glob("model-*"))) > 2
    np.testing.assert_array_equal(load_encoder(out, device="cpu", dtype="float32").encode(TEXTS), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_layer_config": None}, "no per_layer_config"),
        ({"per_layer_config": {"9": {"skip": ["mlp"]}}}, "per_layer_config of layer 9"),
        ({"per_layer_config": {"1": {"skip": ["norm"]}}}, "cannot read"),
        ({"model_type": "wishful"}, "model_type 'wishful' is unknown"),
    ],
)
def test_a_config_that_cannot_be_followed(tmp_path: Path, change: dict[str, object], message: str) -> None:
    out = cut_tiny(tmp_path)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_encoder(out, device="cpu")


def test_an_adapter_of_a_plain_trainer_is_saved_and_loaded_again(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path, attention=True, widths="uneven")
    encoder = SentenceTransformer(str(out), device="cpu", trust_remote_code=True)
    plain = encoder.encode(TEXTS)
    encoder.add_adapter(LoraConfig(task_type="FEATURE_EXTRACTION", r=4, target_modules="all-linear", init_lora_weights=False))
    expected = encoder.encode(TEXTS)
    assert np.abs(expected - plain).max() > 1e-3
    encoder.save_pretrained(str(tmp_path / "adapted"))
    again = SentenceTransformer(str(tmp_path / "adapted"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    # Its base has gone: the error names it.
    out.rename(tmp_path / "elsewhere")
    with pytest.raises(OSError, match=str(out)):
        SentenceTransformer(str(tmp_path / "adapted"), device="cpu", trust_remote_code=True)


def test_other_backends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="torch backend only"):
        SentenceTransformer(str(cut_tiny(tmp_path)), device="cpu", backend="onnx", trust_remote_code=True)


def test_it_loads_in_a_fresh_process_that_imports_nothing_of_ours(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path, attention=True, widths="uneven")
    code = inspect.cleandoc(
        """
        import sys
        from sentence_transformers import SentenceTransformer
        vectors = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code=True).encode(["a", "the lazy dog"])
        print(vectors.tolist())
        """
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code, str(out)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    expected = load_encoder(out, device="cpu", dtype="float32").encode(["a", "the lazy dog"])
    np.testing.assert_allclose(np.array(json.loads(run.stdout)), expected, atol=1e-6, rtol=0)
