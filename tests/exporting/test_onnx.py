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
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from transformers import AutoConfig, AutoModel, AutoTokenizer

from prune2vec.errors import CheckpointError, ConfigError, MissingExtra
from prune2vec.evaluation.retrieval import rank_all, retrieval_metrics
from prune2vec.exporting import onnx_graph, onnx_precision
from prune2vec.exporting.export import export_encoder, prepared, write_export
from prune2vec.exporting.onnx_graph import OnnxEncoder
from prune2vec.exporting.targets import onnx as target
from prune2vec.models.kept import Kept
from prune2vec.pruning.encoder import load_encoder, parts_of
from prune2vec.pruning.parity import PROBE_TEXTS
from tests.exporting.encoders import INSTRUCTION, TEXTS, cut_encoder, export_loaded, plan_for, tiny_encoder
from tests.tiny import BIDIRECTIONAL
from tests.tiny_encoders import TINY_ENCODERS

onnx = pytest.importorskip("onnx", reason="the onnx extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the onnx extra is not installed")
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
    # Left out it is of ones: then a prompt's tokens are pooled too, as where they are never left out.
    assert about["inputs"] == ["input_ids", "attention_mask"]
    assert about["optional_inputs"] == ([] if pooling == "lasttoken" else ["pooling_mask"]) and len(about["notes"]) == (
        pooling != "lasttoken"
    )
    session = onnxruntime.InferenceSession(tmp_path / "out" / onnx_graph.MODEL)
    assert [value.name for value in session.get_inputs()] == about["inputs"]
    assert [value.name for value in session.get_outputs()] == ["last_hidden_state", "sentence_embedding"]
    assert [value.name for value in session.get_overridable_initializers()] == about["optional_inputs"]
    encoder[1].include_prompt = True
    bare = OnnxEncoder(tmp_path / "out", max_length=48).encode(TEXTS, prompt=INSTRUCTION["query"])
    np.testing.assert_allclose(
        bare, encoder.encode(TEXTS, prompt=INSTRUCTION["query"], show_progress_bar=False), atol=1e-5, rtol=0
    )
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
    assert (tmp_path / "out" / "onnx" / "model.onnx_data").stat().st_size > 4 * 384 * 32
    model = onnx.load(tmp_path / "out" / "onnx" / "model.onnx")
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["input_ids", "attention_mask"]
    assert [value.name for value in model.graph.output] == ["last_hidden_state", "sentence_embedding"]
    told = json.loads((tmp_path / "out" / "config.json").read_text())["transformers.js_config"]
    assert told == {"dtype": "fp32", "use_external_data_format": {"model.onnx": True}}
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


def encode_by_its_files(folder: Path, texts: list[str], *, prompt: str) -> Any:
    """Return what sentence-transformers' ONNX backend does with a folder: its small files, and the graph's first output."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kinds = {entry["type"].rpartition(".")[2]: entry["path"] for entry in json.loads((folder / "modules.json").read_text())}
    session = onnxruntime.InferenceSession(folder / onnx_graph.MODEL)
    rows = tokenizer([prompt + text for text in texts], padding=True, truncation=True, return_tensors="np")
    states = session.run(None, {value.name: rows[value.name] for value in session.get_inputs()})[0]
    features = {"token_embeddings": torch.from_numpy(states), "attention_mask": torch.from_numpy(rows["attention_mask"])}
    features["prompt_length"] = len(tokenizer(prompt)["input_ids"])
    found = Pooling.load(str(folder / kinds["Pooling"]))(features)
    return (Normalize()(found) if "Normalize" in kinds else found)["sentence_embedding"].numpy()


@pytest.mark.parametrize("family", ["llama", "bert", "uneven"])
def test_the_folder_is_one_of_sentence_transformers_without_weights(tmp_path: Path, family: str) -> None:
    how: dict[str, Any] = {"prompts": INSTRUCTION, "num_hidden_layers": 3}
    encoder = uneven(tmp_path, prompts=INSTRUCTION) if family == "uneven" else tiny_encoder(tmp_path, family, **how)
    out = tmp_path / "out"
    export_loaded(encoder, target="onnx", output=out)
    for prompt in INSTRUCTION.values():
        expected = encoder.encode(TEXTS, prompt=prompt, show_progress_bar=False)
        np.testing.assert_allclose(encode_by_its_files(out, TEXTS, prompt=prompt), expected, atol=1e-5, rtol=0)
    assert AutoConfig.from_pretrained(out).num_hidden_layers == 3
    whole = json.loads((out / "config_sentence_transformers.json").read_text())
    assert whole["prompts"] == {"query": INSTRUCTION["query"]}
    # Nobody takes it for one with weights.
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(out)
    with pytest.raises(CheckpointError, match="is an export to another runtime"):
        load_encoder(out)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_fewer_bits_are_compared_with_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    monkeypatch.setattr(onnx_precision, "_PAIRS", 4)
    encoder = uneven(tmp_path, pooling="weightedmean", prompts=INSTRUCTION)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    form = prepared("onnx", tmp_path / "out", precision)
    done = write_export(
        form, encoder, target="onnx", output=tmp_path / "out", name="encoder", precision=precision, force=precision == "int8"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    agreement = about["agreement"]
    assert about["precision"] == agreement["precision"] == precision and agreement["texts"] == 9 + 2 * 4
    assert agreement["megabytes"] < agreement["fp32_megabytes"]
    # The cosines are those of the folder that was written, and of the encoder.
    written = OnnxEncoder(tmp_path / "out", max_length=48)
    texts = onnx_precision.sample_texts(parts_of(encoder, {}))
    tokens = {prompt["text"]: prompt["tokens"] for prompt in about["prompts"].values()}
    found = onnx_precision.encode_sample(written, texts, tokens)
    expected = np.concatenate([encoder.encode([text], prompt=prompt, show_progress_bar=False) for prompt, text in texts])
    cosines = (found * expected).sum(axis=1)
    assert (agreement["mean_cosine"], agreement["min_cosine"]) == pytest.approx((cosines.mean(), cosines.min()), abs=1e-4)
    assert agreement["ndcg_at_10"] == pytest.approx(onnx_precision.headline_ndcg(found), abs=1e-6)
    assert agreement["fp32_ndcg_at_10"] == pytest.approx(onnx_precision.headline_ndcg(expected), abs=1e-6)
    assert (cosines.min() > 0.9999) == (precision == "fp16") and f"smallest {agreement['min_cosine']:.4f}" in done.render()
    assert f"smallest {agreement['min_cosine']:.4f}" in (tmp_path / "out" / "README.md").read_text()
    model = onnx.load(tmp_path / "out" / onnx_graph.MODEL)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.INT8) in kinds


@pytest.mark.parametrize("seed", range(5))
def test_the_ndcg_of_headlines_is_that_of_evaluate(seed: int) -> None:
    vectors = np.random.default_rng(seed).standard_normal((len(PROBE_TEXTS) + 2 * 40, 3), dtype=np.float32)
    headlines, docstrings = np.split(vectors[len(PROBE_TEXTS) :], 2)
    scores = torch.nn.functional.cosine_similarity(torch.tensor(headlines)[:, None], torch.tensor(docstrings)[None], dim=2)
    ids = [str(number) for number in range(40)]
    ranking = rank_all(ids, ids, lambda rows: scores[rows], same={}, seed=seed)
    expected = retrieval_metrics(ranking, {one: {one: 1} for one in ids})["ndcg@10"]
    assert onnx_precision.headline_ndcg(vectors) == pytest.approx(expected, abs=1e-6) and 0 < expected < 1


def test_far_vectors_and_weights_beyond_fp16_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_precision, "_PAIRS", 4)
    monkeypatch.setattr(onnx_precision, "LEAST_COSINE", 0.999999)
    encoder = tiny_encoder(tmp_path, num_hidden_layers=1)
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    with pytest.raises(CheckpointError, match=r"mean cosine 0\.\d+, .*call prune2vec\.export with force=True"):
        export_encoder(tmp_path / "encoder", target="onnx", output=tmp_path / "out", precision="int8")
    encoder[0].auto_model.norm.weight.data[0] = 1e5
    encoder.save_pretrained(str(tmp_path / "encoder"), create_model_card=False)
    with pytest.raises(CheckpointError, match=r"norm\.weight holds values beyond float16"):
        export_encoder(tmp_path / "encoder", target="onnx", output=tmp_path / "out", precision="fp16", force=True)
    with pytest.raises(ConfigError, match="has no precision 'int4'; expected one of fp32, fp16, int8"):
        export_encoder(tmp_path / "encoder", target="onnx", output=tmp_path / "out", precision="int4")
    assert not list(tmp_path.glob("*out*"))


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
