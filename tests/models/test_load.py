import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from prune2vec.errors import CheckpointError, ModelError, UnsupportedModel
from prune2vec.forward.backbone import load_backbone
from tests.tiny import FAMILIES, save_tiny, tiny_config, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_loads_without_the_lm_head(tmp_path: Path, family: str) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "m", family)), dtype="float32", device="cpu")
    assert not any("lm_head" in name or "embed_out" in name for name, _ in backbone.model.named_parameters())
    assert backbone.shape.num_layers == 5
    assert backbone.shape.params(range(5)) == sum(p.numel() for p in backbone.model.parameters())
    assert not backbone.model.training


def test_dtype_is_chosen(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_tiny(tmp_path / "m")), dtype="bfloat16", device="cpu")
    assert backbone.model.dtype == torch.bfloat16
    assert backbone.shape.bytes_per_param == 4


def test_an_unknown_family_is_inferred(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "stablelm",
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=32,
        vocab_size=384,
    )
    AutoModel.from_config(config).save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    backbone = load_backbone(str(tmp_path / "m"), dtype="float32", device="cpu")
    assert backbone.family.blocks == "layers"
    assert backbone.shape.num_layers == 3


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
@pytest.mark.parametrize("pooler", [True, False])
def test_an_encoder_loads_with_and_without_its_pooler(tmp_path: Path, family: str, pooler: bool) -> None:
    model = AutoModel.from_config(tiny_config(family), add_pooling_layer=pooler)
    assert (model.pooler is not None) == pooler
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer(ends=True).save_pretrained(tmp_path / "m")
    for stream in ("off", "on"):
        backbone = load_backbone(str(tmp_path / "m"), device="cpu", dtype="float32", stream=stream)
        assert backbone.model.pooler is None and not backbone.shape.causal
        assert backbone.max_length == {"bert": 256, "roberta": 255, "mpnet": 254}[family]


def test_names_of_older_files_are_read(tmp_path: Path) -> None:
    model = tiny_model("bert", causal_lm=True)
    model.save_pretrained(tmp_path)
    tiny_tokenizer(ends=True).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    older = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): state[name]
        for name in state
    }
    assert older.keys() != state.keys()
    save_file(older, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_backbone(str(tmp_path), device="cpu", dtype="float32").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.bert.state_dict().items())


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    config = AutoConfig.for_model("t5", d_model=32, num_layers=2, num_heads=4, d_ff=32, vocab_size=384)
    config.save_pretrained(tmp_path / "m")
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        load_backbone(str(tmp_path / "m"), device="cpu")


def test_layers_with_settings_of_their_own_are_refused_with_the_setting(tmp_path: Path) -> None:
    config = AutoConfig.for_model("gemma4_text", num_hidden_layers=6, hidden_size=32, global_head_dim=16)
    config.save_pretrained(tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["per_layer_config"] == {"5": {"head_dim": 16}}
    with pytest.raises(UnsupportedModel, match=r"gemma4_text cannot be cut: single layers .* \(head_dim in per_layer_config\)"):
        load_backbone(str(tmp_path / "m"), device="cpu")


@pytest.mark.parametrize("entry", [{"skip": ["mlp"]}, {"intermediate_size": 40}])
def test_a_model_cut_inside_its_blocks_is_told_from_them(tmp_path: Path, entry: dict[str, object]) -> None:
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "per_layer_config": {"2": entry}}))
    with pytest.raises(ModelError, match="was already cut inside its blocks; cut the original model instead"):
        load_backbone(str(folder), device="cpu")


def test_broken_config(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / "config.json").write_text("{ not json")
    with pytest.raises(ModelError, match="config"):
        load_backbone(str(folder), device="cpu")


@pytest.mark.parametrize("dtype", [3, 10**400, True, "int8", {"a": "b"}])
def test_a_dtype_that_is_no_number_format(tmp_path: Path, dtype: object) -> None:
    folder = save_tiny(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": dtype}))
    with pytest.raises(ModelError, match=r"m: config\.json: dtype is [^\n]{1,60}; expected a dtype such as bfloat16$"):
        load_backbone(str(folder), device="cpu")


def test_two_tokens_with_one_number_are_named(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text())
    first, second = sorted(content["model"]["vocab"])[-2:]
    content["model"]["vocab"][second] = number = content["model"]["vocab"][first]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError) as caught:
        load_backbone(str(folder), device="cpu")
    assert f"tokens {first!r} and {second!r} have one number ({number})" in str(caught.value)


def test_missing_tokeniser(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="tokeniser"):
        load_backbone(str(tmp_path / "m"), device="cpu")


def test_no_weights_at_all(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_backbone(str(folder), device="cpu")
