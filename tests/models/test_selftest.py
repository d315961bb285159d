from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune2vec.errors import CheckpointError, UnsupportedModel
from prune2vec.models.families import Family, SubLayers, final_modules, find_family
from prune2vec.models.selftest import check_sub_layers, is_causal, random_ids, self_test
from prune2vec.pruning.prune import prune_model
from tests.tiny import CAUSAL, FAMILIES, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes_and_its_direction_is_found_out(family: str) -> None:
    model = tiny_model(family)
    assert self_test(model, find_family(model, model.config)) == is_causal(model) == (family in CAUSAL)


@pytest.mark.parametrize("family", ["llama", "llama+bidirectional", "modernbert"])
def test_a_dimension_that_is_large_everywhere_hides_no_direction(family: str) -> None:
    model = tiny_model(family).bfloat16()
    (final,) = final_modules(model, find_family(model, model.config))
    with torch.no_grad():
        final.register_forward_hook(lambda module, args, output: output + 1000 * torch.eye(32, dtype=output.dtype)[3])
    assert is_causal(model) == (family in CAUSAL)


@pytest.mark.parametrize("causal", [True, False])
def test_tokens_that_were_never_trained_do_not_hide_the_direction(causal: bool) -> None:
    model = tiny_model("llama" if causal else "bert")
    last = int(random_ids(model)[0, -1])
    with torch.no_grad():
        model.get_input_embeddings().weight[last : last + 20] = 0.0
    assert is_causal(model) == causal


def test_damaged_weights_are_not_taken_for_a_direction(tmp_path: Path) -> None:
    model = tiny_model("bert")
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    assert not is_causal(model)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"output\.dense\.weight \(layer 1\) holds NaN or infinity"):
        prune_model(tmp_path, 2, tmp_path / "cut", pooling="cls")


def test_a_class_that_follows_the_config_with_a_mask_alone_is_refused() -> None:
    model = tiny_model("llama", is_causal=False)
    for layer in model.layers:
        # As in classes that hand nothing on to the kernel.
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "is_causal": True}), with_kwargs=True
        )
    with pytest.raises(
        UnsupportedModel, match=r"^llama: with an attention mask its tokens see those after them, and without one"
    ):
        is_causal(model)


def test_wrong_final_norm_is_found() -> None:
    model = tiny_model("llama")
    with pytest.raises(UnsupportedModel, match="block 1 of 5 differs by"):
        self_test(model, Family(final=()))


def test_a_block_that_is_not_the_readout_of_a_model_without_final_norm_is_found() -> None:
    model = tiny_model("bert")
    model.encoder.register_forward_hook(lambda module, args, output: setattr(output, "last_hidden_state", output[0] * 2))
    with pytest.raises(UnsupportedModel, match=r"^bert: block 5 of 5 differs by"):
        self_test(model, find_family(model, model.config))


@pytest.mark.parametrize("family", FAMILIES)
def test_sub_layers_of_every_family_can_go(family: str) -> None:
    model = tiny_model(family)
    parts = check_sub_layers(model, find_family(model, model.config))
    assert (parts.between is None) == (family in ("phi", "gpt_neox"))


def test_sub_layers_of_sequential_gpt_neox_can_go() -> None:
    model = tiny_model("gpt_neox", use_parallel_residual=False)
    assert check_sub_layers(model, find_family(model, model.config)).between == "post_attention_layernorm"


def test_a_model_of_one_block_has_nothing_to_check() -> None:
    model = tiny_model("llama", num_hidden_layers=1)
    check_sub_layers(model, find_family(model, model.config))


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        # The stream is not what the norm after attention gets in gemma2, nor what attention's own norm gets in llama.
        ("gemma2", {"between": "post_attention_layernorm"}, "does not run without single sub-layers"),
        ("llama", {"between": "input_layernorm"}, "block 0 without its MLP differs by"),
        # Taken for parallel, though the MLP reads what attention left.
        ("granite", {"between": None}, "block 0 without its MLP differs by"),
        # Taken for sequential, though both read the block's input.
        ("gpt_neox", {"between": "post_attention_layernorm"}, "block 0 without its MLP differs by"),
        ("llama", {"between": "no_such_norm"}, "does not run without single sub-layers"),
        # The MLP's norm is taken for one of attention's, so dropping attention would drop it too.
        (
            "llama",
            {"attention_norms": ("input_layernorm", "post_attention_layernorm")},
            "block 0 without its attention differs",
        ),
        ("llama", {"mlp": ("input_layernorm",), "mlp_norms": ()}, "block 0 without attention and MLP changes its input"),
    ],
)
def test_a_wrong_record_is_found(
    monkeypatch: pytest.MonkeyPatch, family: str, changes: dict[str, object], message: str
) -> None:
    model = tiny_model(family, **({"residual_multiplier": 0.3} if family == "granite" else {}))
    right = check_sub_layers(model, find_family(model, model.config))
    wrong: SubLayers = replace(right, **changes)
    for place in ("selftest", "cut", "block_layout"):
        monkeypatch.setattr(f"prune2vec.models.{place}.sub_layers_of", lambda *args: wrong)
    with pytest.raises(UnsupportedModel, match=message):
        check_sub_layers(model, find_family(model, model.config))
