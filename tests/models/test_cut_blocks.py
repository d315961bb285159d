from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel

from prune2vec.errors import PlanError
from prune2vec.models.cut import Cut, cut_config, cut_model, reference_cut
from prune2vec.models.families import block_list, find_family, in_block
from prune2vec.models.kept import Kept
from tests.tiny import FAMILIES, VOCAB, tiny_model

KEEPS = ([0], [0, 1, 2], [0, 2, 4], [1, 3])


CUTS = [
    pytest.param(keep, family, id=f"{family}-{keep}")
    for family in FAMILIES
    for keep in KEEPS
    # Its first layer is built otherwise than all others.
    if keep[0] == 0 or family != "modernbert"
]


def random_ids() -> torch.Tensor:
    return torch.randint(4, VOCAB, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("keep", "family"), CUTS)
def test_cut_equals_the_model_whose_other_blocks_are_skipped(family: str, keep: list[int]) -> None:
    """The independent reference: the whole model, where a dropped block returns its input unchanged."""
    model, ids = tiny_model(family), random_ids()
    cut = cut_model(model, keep)(input_ids=ids, use_cache=False).last_hidden_state
    found = find_family(model, model.config)
    handles = [
        block.register_forward_hook(lambda module, args, kwargs, out: _input_of(args, kwargs, out), with_kwargs=True)
        for layer, block in enumerate(block_list(model, found))
        if layer not in keep
    ]
    skipped = model(input_ids=ids, use_cache=False).last_hidden_state
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(cut, skipped, rtol=1e-5, atol=1e-5)


def _input_of(args: tuple[torch.Tensor, ...], kwargs: dict[str, torch.Tensor], output: object) -> object:
    states = args[0] if args else kwargs["hidden_states"]
    return (states, *output[1:]) if isinstance(output, tuple) else states


@pytest.mark.parametrize(("keep", "family"), CUTS)
def test_the_reference_of_prune_is_the_cut_model(family: str, keep: list[int]) -> None:
    model, ids = tiny_model(family), random_ids()
    cut = cut_model(model, keep)
    reference = reference_cut(cut, model.config, keep)
    torch.testing.assert_close(cut(input_ids=ids, use_cache=False)[0], reference(input_ids=ids, use_cache=False)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_model_reloads_with_the_stock_class_and_caches(tmp_path: Path, family: str) -> None:
    ids = random_ids()
    cut = cut_model(tiny_model(family), [0, 2, 4])
    cut.save_pretrained(tmp_path)
    reloaded = AutoModel.from_pretrained(tmp_path).eval()
    # With its cache on, a model whose layer_idx were not renumbered raises.
    torch.testing.assert_close(reloaded(input_ids=ids, use_cache=True)[0], cut(input_ids=ids, use_cache=True)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_argument_is_not_touched(family: str) -> None:
    model, ids = tiny_model(family), random_ids()
    before = model(input_ids=ids)[0]
    cut = cut_model(model, [0, 1])
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.zero_()
    torch.testing.assert_close(model(input_ids=ids)[0], before, rtol=0, atol=0)
    assert model.config.num_hidden_layers == 5


def test_a_shared_cut_holds_no_copy() -> None:
    model = tiny_model("llama")
    cut = cut_model(model, [0, 1], share=True)
    assert cut.layers[1].mlp.up_proj.weight.data_ptr() == model.layers[1].mlp.up_proj.weight.data_ptr()


@pytest.mark.parametrize("keep", [[], [0, 0], [1, 0], [-1], [5]])
def test_layers_that_the_model_does_not_have(keep: list[int]) -> None:
    with pytest.raises(PlanError, match="between 0 and 4"):
        cut_model(tiny_model("llama"), keep)


def test_per_layer_lists_follow_the_layers() -> None:
    config = tiny_model("qwen2").config
    cut = cut_config(config, [1, 3, 4])
    assert cut.layer_types == [config.layer_types[layer] for layer in (1, 3, 4)]
    assert len(set(cut.layer_types)) == 2
    assert cut.max_window_layers == 1
    assert config.num_hidden_layers == 5


@settings(deadline=None)
@given(st.sets(st.integers(0, 11), min_size=1), st.integers(0, 11), st.sampled_from(["layers", "decoder.layers", "h"]))
def test_names_after_the_cut(keep: set[int], layer: int, blocks: str) -> None:
    order = sorted(keep)
    name = f"model.{blocks}.{layer}.mlp.weight"
    assert in_block(name, blocks) == (layer, "mlp.weight")
    cut = Cut(kept=Kept(layers=tuple(order)), blocks=blocks)
    expected = f"model.{blocks}.{order.index(layer)}.mlp.weight" if layer in keep else None
    assert cut.rename(name) == expected
    assert cut.rename("model.norm.weight") == "model.norm.weight"


def test_a_first_layer_that_is_built_otherwise_must_stay() -> None:
    with pytest.raises(
        PlanError, match=r"^cannot keep layers \[1, 3\]: modernbert builds its first layer otherwise than all others;"
    ):
        cut_model(tiny_model("modernbert"), [1, 3])


def test_the_layers_of_modernbert_keep_their_kind() -> None:
    model = tiny_model("modernbert")
    assert model.config.layer_types == ["full_attention", *(["sliding_attention"] * 2), "full_attention", "sliding_attention"]
    cut = cut_model(model, [0, 2, 3])
    assert cut.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
