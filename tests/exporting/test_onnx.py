"""The ONNX export, run by onnxruntime and compared with the encoder."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prune2vec.errors import CheckpointError, MissingExtra
from prune2vec.exporting import onnx_graph
from prune2vec.exporting.export import export_encoder
from prune2vec.exporting.onnx_graph import OnnxEncoder
from prune2vec.exporting.targets import onnx as target
from prune2vec.models.kept import Kept
from prune2vec.pruning.encoder import load_encoder
from tests.exporting.encoders import INSTRUCTION, TEXTS, cut_encoder, export_loaded, plan_for, tiny_encoder
from tests.tiny import BIDIRECTIONAL
from tests.tiny_encoders import TINY_ENCODERS

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
pytest.importorskip("onnxscript", reason="the onnx extra is not installed")

ALL = Kept.of(range(3), drop_attention=[0], drop_mlp=[1])


def uneven(tmp_path: Path, family: str = "llama", **how: Any) -> Any:
    encoder = tiny_encoder(tmp_path, family, num_hidden_layers=3, **how)
    return cut_encoder(encoder, plan_for(encoder, ALL, {2: 11}))


def readme_encode(folder: Path) -> Any:
    """Run the example of the folder's README and return its function."""
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code.replace("path/to/this/folder", str(folder)), "README.md", "exec"), names)
    assert out.getvalue().strip() == "(2, 32)"
    return names["encode"]


@pytest.mark.parametrize("pooling", [pytest.param("mean", marks=pytest.mark.slow), "weightedmean", "lasttoken"])
def test_uneven_encoders_with_prompts_and_the_readmes_example(tmp_path: Path, pooling: str) -> None:
    encoder = uneven(tmp_path, pooling=pooling, prompts=INSTRUCTION, bos=pooling == "mean")
    done = export_loaded(encoder, target="onnx", output=tmp_path / "out")
    assert done.parity is not None and done.parity.max_difference < 1e-5 and done.parity.texts == 18
    encode = readme_encode(tmp_path / "out")
    for name, prompt in [(None, ""), *INSTRUCTION.items()]:
        expected = encoder.encode(TEXTS, prompt=prompt, show_progress_bar=False)
        np.testing.assert_allclose(encode(TEXTS, prompt=name), expected, atol=1e-5, rtol=0)
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert ("pooling_mask" in about["inputs"]) == (pooling != "lasttoken")
    assert about["parity"]["max_difference"] == done.parity.max_difference


@pytest.mark.parametrize("kind", ["embeddinggemma", "shortened", "lower", "residual"])
def test_heads_and_poolings_are_in_the_graph(tmp_path: Path, kind: str) -> None:
    folder = TINY_ENCODERS[kind].save(tmp_path / "m")
    done = export_encoder(folder, target="onnx", output=tmp_path / "out")
    encoder = load_encoder(folder, device="cpu", dtype="float32")
    expected = encoder.encode(TEXTS, show_progress_bar=False)
    found = OnnxEncoder(tmp_path / "out", max_length=int(encoder.max_seq_length or 0)).encode(TEXTS)
    assert found.shape == expected.shape and done.parity is not None
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert [head["kind"] for head in about["heads"]] == [
        type(module).__name__ for module in list(encoder)[2 : len(encoder) - about["normalize"]]
    ]


def test_without_prompts_or_normalisation_two_inputs_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_ONE_FILE_BYTES", 0)
    encoder = tiny_encoder(tmp_path, normalize=False, num_hidden_layers=2, dtype=torch.bfloat16)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    export_encoder(tmp_path / "encoder", target="onnx", output=tmp_path / "out")
    assert (tmp_path / "out" / "onnx" / "model.onnx.data").stat().st_size > 4 * 384 * 32
    model = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in model.graph.output] == ["sentence_embedding", "token_embeddings"]
    axes = [axis.dim_param for axis in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "sequence"]
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    written = OnnxEncoder(tmp_path / "out", max_length=48)
    expected = encoder.float().encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(written.encode(TEXTS, batch_size=3), expected, atol=1e-5, rtol=0)
    # Padding changes nothing, whatever stands beside a text.
    alone = np.concatenate([written.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, written.encode(TEXTS), atol=1e-5, rtol=0)


SLOW = ["mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi3", "opt", "olmo2"]
SLOW += [*BIDIRECTIONAL, "roberta", "mpnet", "distilbert"]


@pytest.mark.parametrize("family", ["bert", "modernbert", *(pytest.param(family, marks=pytest.mark.slow) for family in SLOW)])
def test_other_families(tmp_path: Path, family: str) -> None:
    layers = {{"gpt2": "n_layer", "distilbert": "n_layers"}.get(family, "num_hidden_layers"): 3}
    pooling = "cls" if family in ("bert", "modernbert", "roberta") else "mean"
    encoder = tiny_encoder(tmp_path, family, prompts=INSTRUCTION, pooling=pooling, **layers)
    cut_encoder(encoder, plan_for(encoder, ALL, {2: 11}))
    done = export_loaded(encoder, target="onnx", output=tmp_path / "out")
    assert done.parity is not None and done.parity.max_difference < 1e-4


def test_a_graph_that_differs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder(tmp_path, num_hidden_layers=1)
    right = OnnxEncoder.encode
    monkeypatch.setattr(OnnxEncoder, "encode", lambda *args, **how: right(*args, **how) + 1e-3)
    with pytest.raises(CheckpointError, match=r"differs from the encoder in memory by 0\.001"):
        export_loaded(encoder, target="onnx", output=tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_an_encoder_in_bf16_is_refused(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path, dtype=torch.bfloat16, num_hidden_layers=1)
    with pytest.raises(CheckpointError, match="load it in float32"):
        export_loaded(encoder, target="onnx", output=tmp_path / "out")


@pytest.mark.parametrize("name", target._NEEDED)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"needs the package {name}; .*prune2vec\[onnx\]"):
        export_encoder(tmp_path / "not there", target="onnx", output=tmp_path / "out")
