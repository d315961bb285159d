"""Models whose blocks are not all alike: saved, reloaded and compared with the whole original; refused by stock classes."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from prune2vec.errors import CheckpointError, ModelError, PlanError
from prune2vec.forward.backbone import load_backbone
from prune2vec.modules import UnevenTransformer
from prune2vec.pruning.encoder import load_encoder, save_encoder
from prune2vec.pruning.parity import PROBE_TEXTS
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import check_reads, plan_for
from tests.pruning.uneven import cut_tiny, silenced_original, uneven_plan
from tests.tiny import FAMILIES, save_tiny, tiny_model, tiny_tokenizer

TEXTS = list(PROBE_TEXTS)
COMBINATIONS = [
    (mlp, attention, widths)
    for mlp in (False, True)
    for attention in (False, True)
    for widths in ("full", "uneven", "uniform")
    if mlp or attention or widths != "full"
]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "phi3"])
@pytest.mark.parametrize(("mlp", "attention", "widths"), COMBINATIONS)
def test_saved_and_reloaded_it_is_the_original_with_silent_parts(
    tmp_path: Path, family: str, mlp: bool, attention: bool, widths: str
) -> None:
    model = save_tiny(tmp_path / "m", family)
    plan = uneven_plan(model, mlp, attention, widths)
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128)
    expected = silenced_original(model, plan)
    stock = widths == "uniform" and not (mlp or attention)
    plain = SentenceTransformer(str(out), device="cpu", trust_remote_code=not stock)
    ours = load_encoder(out, device="cpu", dtype="float32")
    for encoder in (plain, ours):
        np.testing.assert_allclose(encoder.encode(TEXTS, batch_size=3), expected, atol=1e-6, rtol=0)
    assert json.loads((out / "parity.json").read_text())["max_difference"] <= 1e-6
    assert isinstance(plain[0], UnevenTransformer) is not stock
    parity = save_encoder(ours, tmp_path / "again")
    assert parity.max_difference <= 1e-6
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu", trust_remote_code=not stock)
    np.testing.assert_allclose(again.encode(TEXTS, batch_size=3), expected, atol=1e-6, rtol=0)
    if stock:
        config = AutoModel.from_pretrained(out).config
        assert config.intermediate_size == 30


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("mlp", "attention", "widths"), [(True, False, "full"), (False, True, "full"), (False, False, "uneven")], ids=str
)
def test_stock_classes_refuse_it(tmp_path: Path, family: str, mlp: bool, attention: bool, widths: str) -> None:
    model = save_tiny(tmp_path / "m", family)
    plan = uneven_plan(model, mlp, attention, widths)
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128)
    vectors = load_encoder(out, device="cpu", dtype="float32").encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(vectors, silenced_original(model, plan), atol=1e-6, rtol=0)
    with pytest.raises(RuntimeError, match="per-layer attribute"):
        AutoModel.from_pretrained(out)
    # What releases see that do not know the entry.
    config = json.loads((out / "config.json").read_text())
    del config["per_layer_config"]
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match="mismatch"):
        AutoModel.from_pretrained(out)


def test_a_mixture_of_experts_without_an_attention(tmp_path: Path) -> None:
    """It has no single width to misstate, so its model type is one that nobody knows."""
    model = tmp_path / "m"
    sizes = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen3_moe", **FAMILIES["llama"], **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    plan = plan_for(model, [0, 1, 2], drop_attention=[1])
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128)
    vectors = load_encoder(out, device="cpu", dtype="float32").encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(vectors, silenced_original(model, plan), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="uneven-qwen3_moe"):
        AutoModel.from_pretrained(out)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_bf16_checkpoints_keep_their_weights_and_exact_buffers(tmp_path: Path, family: str) -> None:
    model = tmp_path / "m"
    tiny_model(family, causal_lm=True).to(torch.bfloat16).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    plan = uneven_plan(model, True, True, "uneven")
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    vectors = load_encoder(out, device="cpu", dtype="float32").encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(vectors, silenced_original(model, plan), atol=1e-6, rtol=0)
    plain = SentenceTransformer(str(out), device="cpu", trust_remote_code=True)[0].auto_model
    whole = AutoModel.from_pretrained(model)
    assert plain.dtype == whole.dtype == torch.bfloat16
    expected = {name: buffer for name, buffer in whole.named_buffers() if not name.startswith("h.")}
    found = {name: buffer for name, buffer in plain.named_buffers() if not name.startswith("h.")}
    # A cut without layers that see all tokens has no frequencies for them.
    assert all("full_attention" in name for name in expected.keys() ^ found.keys())
    assert len(found) >= min(1, len(expected))
    for name, buffer in found.items():
        assert buffer.dtype == expected[name].dtype
        assert torch.equal(buffer, expected[name]), name


def test_scaled_rotary_frequencies(tmp_path: Path) -> None:
    model = tmp_path / "m"
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rope["original_max_position_embeddings"] = 32
    tiny_model("llama", causal_lm=True, rope_parameters=rope).save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    plan = uneven_plan(model, True, True, "uneven")
    out = prune_model(str(model), plan, tmp_path / "out", max_length=128)
    vectors = SentenceTransformer(str(out), device="cpu", trust_remote_code=True).encode(TEXTS)
    np.testing.assert_allclose(vectors, silenced_original(model, plan), atol=1e-6, rtol=0)


def test_only_the_shards_of_kept_parts_are_opened(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m", max_shard_size="7KB")
    index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    gone = ("layers.1.mlp.", "layers.1.post_attention_layernorm.", "layers.0.self_attn.", "layers.0.input_layernorm.")
    kept = {
        name: file
        for name, file in index.items()
        if name != "lm_head.weight"
        and not any(part in name for part in gone)
        and (".layers." not in name or int(name.split(".")[2]) < 3)
    }
    unused = set(index.values()) - set(kept.values())
    assert any("layers.1.mlp" in name and file in unused for name, file in index.items())
    plan = plan_for(model, range(3), drop_mlp=[1], drop_attention=[0], neurons={0: range(20)})
    check_reads(model, plan, kept)


def test_an_uneven_folder_is_no_model_to_cut(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path)
    with pytest.raises(ModelError, match="cut the original model instead"):
        load_backbone(str(out))


def test_damage_in_what_goes_does_not_matter(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    spoil(model, "model.layers.1.mlp.up_proj.weight", neuron=0)
    spoil(model, "model.layers.0.mlp.up_proj.weight", neuron=4)
    assert prune_model(str(model), uneven_plan(model, True, False, "uneven"), tmp_path / "out", max_length=128).is_dir()
    spoil(model, "model.layers.0.mlp.up_proj.weight", neuron=5)
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.up_proj\.weight \(layer 0\) holds NaN"):
        prune_model(str(model), uneven_plan(model, True, False, "uneven"), tmp_path / "again", max_length=128)


def spoil(model: Path, name: str, neuron: int) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors[name][neuron, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def test_unmerged_adapters_are_refused(tmp_path: Path) -> None:
    encoder = load_encoder(cut_tiny(tmp_path), device="cpu", dtype="float32")
    encoder.add_adapter(LoraConfig(target_modules="all-linear"))
    with pytest.raises(CheckpointError, match="merge adapters first"):
        save_encoder(encoder, tmp_path / "again")


def test_record_card_and_plan_tell_the_cut_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = cut_tiny(tmp_path, attention=True, widths="uneven")
    record = json.loads((out / "prune2vec.json").read_text())["plan"]
    assert (record["drop_mlp"], record["drop_attention"], record["widths"]) == ([1], [3], {"0": 20, "3": 24})
    card = (out / "README.md").read_text()
    assert 'SentenceTransformer("path/to/this/folder", trust_remote_code=True)' in card
    assert "Stock transformers" in card
    assert "- without the MLP of layer 1\n" in card
    assert "- 20 to 24 neurons in the MLP of layers 0, 3\n" in card
    said = capsys.readouterr().err
    assert "4 of 5 layers; without the attention of layer 3; without the MLP of layer 1; 20 to 24 neurons" in said
    stored = json.loads((out / "plan.json").read_text())
    assert set(stored["neurons"]) == {"0", "3"}


def test_a_stock_encoder_stays_stock(tmp_path: Path) -> None:
    out = cut_tiny(tmp_path, mlp=False, widths="uniform")
    assert "trust_remote_code" not in (out / "README.md").read_text()
    assert "per_layer_config" not in json.loads((out / "config.json").read_text())
    assert json.loads((out / "modules.json").read_text())[0]["type"] == "sentence_transformers.models.Transformer"


def test_a_width_that_is_not_decided(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    plan = replace(plan_for(model, range(3)), width_cut=Fraction(1, 4))
    with pytest.raises(PlanError, match="prune2vec slim"):
        prune_model(str(model), plan, tmp_path / "out", max_length=128)
    assert not (tmp_path / "out").exists()


def test_neurons_that_the_model_does_not_have(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "m")
    plan = plan_for(model, range(3))
    wide = replace(plan.shape, mlp_width=(99,) * 5)
    with pytest.raises(PlanError, match=r"neuron 98 of layer 1.*0 to 47"):
        prune_model(str(model), replace(plan, shape=wide, neurons={1: (3, 98)}), tmp_path / "out", max_length=128)
