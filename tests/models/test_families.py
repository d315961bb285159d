from __future__ import annotations

import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from prune2vec.errors import UnsupportedModel
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import LAYER_NUMBER_LISTS, PER_LAYER_LISTS, cut_config_entries
from prune2vec.models.families import (
    Family,
    block_list,
    final_modules,
    find_family,
    find_sub_layers,
    num_layers,
    padding_position,
    sub_layer_states,
)
from prune2vec.models.kept import KINDS
from tests.tiny import FAMILIES, tiny_config, tiny_model

LAYERS = 5
SMALL = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def unknown_model(family: str, **changes: Any) -> Any:
    """Return a tiny model of an architecture that is none of those in ``tests.tiny``."""
    assert family not in FAMILIES
    with torch.device("meta"):
        return AutoModel.from_config(AutoConfig.for_model(family, **{**SMALL, **changes}))


# Where the parts are


BERT_LIKE = Family(blocks="encoder.layer", final=(), attention="attention", mlp=("intermediate", "output"))
EXPECTED = {
    "gpt2": Family(blocks="h", final=("ln_f",), attention="attn"),
    "gpt_neox": Family(final=("final_layer_norm",), attention="attention"),
    "phi": Family(final=("final_layernorm",)),
    "opt": Family(
        blocks="decoder.layers", final=("decoder.final_layer_norm", "decoder.project_out"), mlp=("fc1", "activation_fn", "fc2")
    ),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "mpnet"), BERT_LIKE),
    "distilbert": Family(blocks="transformer.layer", final=(), attention="attention", mlp=("ffn",)),
    "modernbert": Family(final=("final_norm",), attention="attn", first_stays=True),
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_parts_of_every_family_of_the_tests_are_found(family: str) -> None:
    model = tiny_model(family)
    found = find_family(model, model.config)
    assert found == EXPECTED.get(model.config.model_type, Family()), "else as in Llama"
    blocks = block_list(model, found)
    assert num_layers(model.config) == len(blocks) == LAYERS
    assert bool(final_modules(model, found)) == bool(found.final)
    for block in blocks:
        block.get_submodule(found.attention)
        for part in found.mlp:
            block.get_submodule(part)


@pytest.mark.parametrize(
    ("family", "blocks", "final", "attention"),
    [
        ("stablelm", "layers", "norm", "self_attn"),
        ("cohere2", "layers", "norm", "self_attn"),
        ("bloom", "h", "ln_f", "self_attention"),
        ("gptj", "h", "ln_f", "attn"),
    ],
)
def test_unknown_families_are_inferred(family: str, blocks: str, final: str, attention: str) -> None:
    model = unknown_model(family)
    found = find_family(model, model.config)
    assert (found.blocks, found.final, found.attention, found.mlp) == (blocks, (final,), attention, ("mlp",))
    assert len(block_list(model, found)) == LAYERS and len(final_modules(model, found)) == 1


class Wrapped(nn.Module):
    """A decoder whose blocks sit one level down, with another list of the same length inside each block."""

    def __init__(self, *, layers: int = 3, norms: tuple[str, ...] = ("ln_f",), twin: bool = False) -> None:
        super().__init__()
        self.decoder = nn.Module()
        self.decoder.blocks = nn.ModuleList(nn.Module() for _ in range(layers))
        for block in self.decoder.blocks:
            block.attn, block.ffn = nn.Linear(2, 2), nn.Linear(2, 2)
            block.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))
        for norm in norms:
            setattr(self.decoder, norm, nn.LayerNorm(2))
        if twin:
            self.memory = nn.ModuleList(nn.Linear(2, 2) for _ in range(layers))


def config_of(layers: int = 3) -> Any:
    return SimpleNamespace(model_type="homemade", num_hidden_layers=layers)


def test_inference_looks_below_the_top_and_not_inside_blocks() -> None:
    found = find_family(Wrapped(), config_of())
    assert (found.blocks, found.final, found.attention, found.mlp) == ("decoder.blocks", ("decoder.ln_f",), "attn", ("ffn",))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Wrapped(layers=4), "homemade: expected one list of 3 blocks, found none"),
        (Wrapped(twin=True), "homemade: expected one list of 3 blocks, found decoder.blocks, memory"),
        (Wrapped(norms=("norm", "ln_f")), r"homemade: final norms \['decoder.norm', 'decoder.ln_f'\]"),
    ],
)
def test_what_cannot_be_inferred_is_refused_with_the_reason(model: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModel, match=rf"^{message}[^\n]*prune2vec cuts models of one stack of blocks[^\n]*$"):
        find_family(model, config_of())


@pytest.mark.parametrize("family", ["electra", "camembert", "ernie"])
def test_encoders_like_bert_are_inferred(family: str) -> None:
    model = unknown_model(family)
    found = find_family(model, model.config)
    assert found == find_family(tiny_model("bert"), tiny_config("bert"))
    parts = find_sub_layers(block_list(model, found)[0], found, model.config)
    assert parts == find_sub_layers(tiny_model("bert").encoder.layer[0], found, tiny_config("bert"))


@pytest.mark.parametrize(
    ("family", "expected"), [("bert", None), ("roberta", 0), ("xlm-roberta", 1), ("mpnet", 1), ("llama", None)]
)
def test_where_positions_begin(family: str, expected: int | None) -> None:
    assert padding_position(tiny_model(family)) == expected


@pytest.mark.parametrize("family", ["t5", "bart", "whisper"])
def test_encoder_decoders_are_refused(family: str) -> None:
    with pytest.raises(
        UnsupportedModel, match=rf"^{family} is an encoder-decoder; prune2vec cuts models of one stack of blocks[^\n]+$"
    ):
        num_layers(AutoConfig.for_model(family))


@pytest.mark.parametrize("family", ["gemma3", "llava"])
def test_models_of_several_parts_are_refused_with_the_part_named(family: str) -> None:
    with pytest.raises(
        UnsupportedModel, match=rf"^{family} cannot be cut: it keeps its language model in text_config; [^\n]+$"
    ):
        num_layers(AutoConfig.for_model(family))


@pytest.mark.parametrize("count", [None, 0, "12", True])
def test_a_config_without_layers_is_refused(count: object) -> None:
    with pytest.raises(UnsupportedModel, match=rf"^homemade cannot be cut: num_hidden_layers is {count!r}, [^\n]+$"):
        num_layers(SimpleNamespace(model_type="homemade", num_hidden_layers=count))


def test_a_record_that_does_not_fit_the_model_is_named() -> None:
    model = tiny_model("llama")
    model.layers = nn.Sequential(*model.layers)
    with pytest.raises(UnsupportedModel, match=r"^LlamaModel.layers is a Sequential, not a list of blocks$"):
        block_list(model, Family())


# Which config entries belong to layers


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_no_list_of_one_entry_a_layer_is_unknown(family: str) -> None:
    entries = tiny_config(family).to_dict()
    known = PER_LAYER_LISTS | LAYER_NUMBER_LISTS
    unknown = [
        name
        for name, value in entries.items()
        if isinstance(value, (list, tuple)) and len(value) == LAYERS and name not in known
    ]
    assert unknown == []
    cut_config_entries(entries, [0], LAYERS)


@pytest.mark.parametrize("keep", [[0], [0, 1, 2], [1, 3], [4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_list_is_cut_by_the_kept_layers(family: str, keep: list[int]) -> None:
    entries = tiny_config(family).to_dict()
    changed = cut_config_entries(entries, keep, LAYERS)
    lists = {name for name in PER_LAYER_LISTS if entries.get(name) is not None}
    assert lists == {name for name in changed if name in PER_LAYER_LISTS}
    for name in lists:
        assert changed[name] == [entries[name][layer] for layer in keep]


def test_the_families_with_kinds_of_layers_do_have_lists() -> None:
    kinds = {
        family: tiny_config(family).to_dict().get("layer_types") for family in ("qwen2", "gemma2", "gemma3_text", "smollm3")
    }
    assert all(len(value) == LAYERS for value in kinds.values())
    assert kinds["qwen2"] == ["full_attention"] * 2 + ["sliding_attention"] * 3
    assert len(tiny_config("smollm3").to_dict()["no_rope_layers"]) == LAYERS


def test_counts_of_leading_layers_and_lists_of_layer_numbers() -> None:
    entries = {
        "max_window_layers": 2,
        "first_k_dense_replace": 4,
        "mlp_only_layers": [1, 3],
        "hidden_size": 32,
        "num_hidden_layers": 5,
    }
    assert cut_config_entries(entries, [0, 3, 4], 5) == {
        "max_window_layers": 1,
        "first_k_dense_replace": 2,
        "mlp_only_layers": [1],
    }


def test_the_run_length_form_of_gpt_neo_is_cut_too() -> None:
    entries = {
        "attention_types": [[["global", "local"], 2], [["global"], 1]],
        "attention_layers": ["global", "local"] * 2 + ["global"],
    }
    changed = cut_config_entries(entries, [1, 2, 4], 5)
    assert changed["attention_types"] == [[["local"], 1], [["global"], 1], [["global"], 1]]
    assert changed["attention_layers"] == ["local", "global", "global"]
    cut = AutoConfig.for_model("gpt_neo", num_layers=3, attention_types=changed["attention_types"])
    assert cut.attention_layers == changed["attention_layers"]


def test_an_unknown_list_of_one_entry_a_layer_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"^config entry 'rope_kinds' has 5 values, one a layer by its length, [^\n]+$"):
        cut_config_entries({"rope_kinds": [1] * 5}, [0], 5)


@pytest.mark.parametrize("name", ["eos_token_id", "bos_token_id", "architectures"])
def test_as_many_tokens_as_layers_are_no_reason_to_refuse(name: str) -> None:
    assert cut_config_entries({name: [128001, 128008, 128009]}, [0, 1], 3) == {}


def test_a_known_list_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"^config entry 'layer_types' has 4 values for 5 layers$"):
        cut_config_entries({"layer_types": ["full_attention"] * 4}, [0], 5)


IDS = torch.arange(4, 24)[None].repeat(2, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stream_goes_from_sub_layer_to_sub_layer(family: str) -> None:
    model, seen = tiny_model(family), {}
    record, parts = find_family(model, model.config), sub_layers_of(model)

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        assert before.shape == after.shape == (2, 20, 32)
        seen[layer, kind] = (before, after)

    with torch.inference_mode(), sub_layer_states(model, record, parts, see):
        model(input_ids=IDS, use_cache=False)
    assert list(seen) == [(layer, kind) for layer in range(5) for kind in KINDS]
    for layer in range(5):
        attention, mlp, block = (seen[layer, kind] for kind in KINDS)
        assert torch.equal(attention[0], block[0])
        if parts.between is not None:
            assert torch.equal(attention[1], mlp[0])
            assert torch.equal(mlp[1], block[1])
        else:
            assert torch.equal(mlp[0], block[0])
            torch.testing.assert_close(attention[1] + mlp[1] - block[0], block[1], rtol=1e-5, atol=1e-5)
        if layer:
            assert torch.equal(seen[layer - 1, "block"][1], block[0])


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_one_blocks_states_are_alive_and_hooks_go_even_after_an_error(family: str) -> None:
    model = tiny_model(family)
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def see(layer: int, kind: str, before: Tensor, after: Tensor) -> None:
        nonlocal most
        alive[:] = [reference for reference in alive if reference() is not None]
        known = {id(reference()) for reference in alive}
        alive.extend(weakref.ref(state) for state in (before, after) if id(state) not in known)
        most = max(most, len(alive))
        if layer == 4 and kind == "block":
            raise KeyError

    with (
        pytest.raises(KeyError),
        torch.inference_mode(),
        sub_layer_states(model, find_family(model, model.config), sub_layers_of(model), see),
    ):
        model(input_ids=IDS, use_cache=False)
    assert 2 <= most <= 5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
