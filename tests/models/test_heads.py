"""An encoder's heads: loaded as sentence-transformers does, known again, written in a form that it loads, or refused in a line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from prune2vec.errors import CheckpointError, Prune2vecError, UnsupportedModel
from prune2vec.models.heads import head_record, head_words, in_fp32, load_heads, read_out, write_head
from prune2vec.models.source import resolve_source
from tests.tiny_encoders import NORMALIZE, TINY_ENCODERS, TinyEncoder, dense

ACTIVATIONS = (
    "activation.Tanh",
    "activation.GELU",
    "activation.ReLU",
    "activation.SiLU",
    "activation.PReLU",
    "linear.Identity",
)
BASE = TINY_ENCODERS["embeddinggemma"]


def loaded(folder: Path) -> tuple[torch.nn.Module, ...]:
    return load_heads(resolve_source(str(folder)), width=32)


def assert_reads_out(folder: Path) -> None:
    """Compare what is loaded with the library's own modules, on random vectors."""
    heads, stock = loaded(folder), SentenceTransformer(str(folder), device="cpu")
    vectors = torch.randn(5, 32)
    features = {"sentence_embedding": vectors}
    for module in list(stock)[2:]:
        features = module.eval()(features)
    ends = type(stock[-1]).__name__ == "Normalize"
    torch.testing.assert_close(
        read_out(vectors, in_fp32(heads), normalize=ends), features["sentence_embedding"], rtol=0, atol=0
    )
    assert len(heads) == len(stock) - 2 - ends


@pytest.mark.parametrize("kind", TINY_ENCODERS)
def test_every_chain_is_sentence_transformers_own(tmp_path: Path, kind: str) -> None:
    assert_reads_out(TINY_ENCODERS[kind].save(tmp_path / "m"))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(tmp_path: Path, activation: str, bias: bool) -> None:
    head = dense(32, 20, f"torch.nn.modules.{activation}", bias=bias)
    assert_reads_out(replace(BASE, heads=[head, NORMALIZE]).save(tmp_path / "m"))


def test_a_dense_head_without_an_activation_takes_tanh(tmp_path: Path) -> None:
    folder = replace(BASE, heads=[("Dense", {"in_features": 32, "out_features": 8})]).save(tmp_path / "m")
    assert_reads_out(folder)
    assert loaded(folder)[0].get_config_dict()["activation_function"].endswith("Tanh")  # type: ignore[operator]


def test_nothing_is_drawn_from_the_global_generator(tmp_path: Path) -> None:
    folder = BASE.save(tmp_path / "m")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    loaded(folder)
    assert torch.equal(torch.rand(3), expected)


def test_the_stored_dtype_stays(tmp_path: Path) -> None:
    folder = replace(BASE, head_dtype=torch.bfloat16).save(tmp_path / "m")
    head = loaded(folder)[0]
    assert next(head.parameters()).dtype == torch.bfloat16
    write_head(head, tmp_path / "written")
    written, source = (load_file(path / "model.safetensors") for path in (tmp_path / "written", folder / "2_Dense"))
    assert written.keys() == source.keys()
    assert all(torch.equal(written[name], source[name]) and written[name].dtype == source[name].dtype for name in source)
    config = json.loads((tmp_path / "written" / "config.json").read_text())
    assert config.keys() == {"in_features", "out_features", "bias", "activation_function"}, "what every release reads"


def test_a_head_is_known_again_by_settings_and_weights(tmp_path: Path) -> None:
    folder = BASE.save(tmp_path / "m")
    records = [head_record(head) for head in loaded(folder)]
    assert [head_record(head) for head in loaded(folder)] == records
    weights = load_file(folder / "3_Dense" / "model.safetensors")
    weights["linear.weight"][0, 0] += 1
    save_file(weights, folder / "3_Dense" / "model.safetensors")
    again = [head_record(head) for head in loaded(folder)]
    assert again[0] == records[0] and again[1] != records[1]
    assert head_words(loaded(folder)) == "Dense 32 -> 96, Dense 96 -> 32"


def test_a_language_model_has_none(tmp_path: Path) -> None:
    folder = BASE.save(tmp_path / "m")
    (folder / "modules.json").unlink()
    assert loaded(folder) == ()


def broken(folder: Path, what: str) -> Path:
    """Write an encoder of two dense heads with something wrong in the first."""
    file, weights = folder / "2_Dense" / "config.json", folder / "2_Dense" / "model.safetensors"
    entries: dict[str, Any] = json.loads(BASE.save(folder).joinpath("2_Dense", "config.json").read_text())
    changes: dict[str, dict[str, Any]] = {
        "own activation": {"activation_function": "my_package.Activation"},
        "function": {"activation_function": "torch.nn.functional.relu"},
        "arguments": {"activation_function": "torch.nn.modules.activation.Threshold"},
        "code": {"activation_function": "torch.hub.load"},
        "tokens": {"module_input_name": "token_embeddings"},
        "type": {"in_features": "32"},
        "narrow": {"in_features": 16},
    }
    if what in changes:
        file.write_text(json.dumps({**entries, **changes[what]}))
    if what == "narrow":
        save_file({"linear.weight": torch.zeros(96, 16)}, weights)
    if what == "shape":
        save_file({"linear.weight": torch.zeros(96, 16)}, weights)
    if what == "left over":
        save_file({"linear.weight": torch.zeros(96, 32), "linear.bias": torch.zeros(96)}, weights)
    if what == "nan":
        save_file({"linear.weight": torch.full((96, 32), torch.nan)}, weights)
    if what == "cut short":
        weights.write_bytes(weights.read_bytes()[:-8])
    if what == "pickled":
        weights.rename(weights.with_name("pytorch_model.bin"))
    if what == "no file":
        file.unlink()
    if what == "module":
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["type"] = "custom_st.Transformer"
        (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ("own activation", UnsupportedModel, "2_Dense.*'my_package.Activation' cannot be made .*expected a class of torch.nn"),
        ("function", UnsupportedModel, "'torch.nn.functional.relu' cannot be made"),
        ("arguments", UnsupportedModel, "Threshold' cannot be made"),
        ("code", UnsupportedModel, "'torch.hub.load' cannot be made"),
        ("tokens", UnsupportedModel, "this Dense goes from token_embeddings to"),
        ("type", CheckpointError, "2_Dense/config.json: in_features"),
        ("narrow", CheckpointError, "its Dense is for vectors of 16 dimensions, and gets 32"),
        ("shape", CheckpointError, "2_Dense: its weights do not fit its config.json"),
        ("left over", CheckpointError, "2_Dense: its weights do not fit its config.json"),
        ("nan", CheckpointError, "2_Dense: linear.weight holds NaN"),
        ("cut short", CheckpointError, "is damaged or cut short"),
        ("pickled", CheckpointError, "2_Dense has only pickled weights"),
        ("no file", CheckpointError, "2_Dense/config.json is missing, though modules.json names it"),
        ("module", UnsupportedModel, r"brings a class of its own for a module \(custom_st.Transformer\)"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, what: str, error: type[Prune2vecError], match: str) -> None:
    folder = broken(tmp_path / "m", what)
    with pytest.raises(error, match=match) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)


def test_a_truncated_vector_is_not_normalised_again() -> None:
    vectors = torch.randn(4, 8)
    found = read_out(vectors, (), normalize=True, truncate_dim=3)
    torch.testing.assert_close(found, torch.nn.functional.normalize(vectors, dim=1)[:, :3])


def test_the_builder_writes_what_it_is_told(tmp_path: Path) -> None:
    folder = TinyEncoder(family="llama", pooling="mean", heads=[dense(32, 8), NORMALIZE]).save(tmp_path / "m")
    assert SentenceTransformer(str(folder), device="cpu").encode(["a"]).shape == (1, 8)
