"""Cuts inside blocks, against the whole model whose dropped parts add nothing and whose cut neurons are silent."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from prune2vec.errors import PlanError, UnsupportedModel
from prune2vec.models.block_layout import is_even, layout_of, per_layer_config, read_layout
from prune2vec.models.cut import cut_model, reference_cut
from prune2vec.models.families import find_family, without_head
from prune2vec.models.kept import Kept
from prune2vec.models.shape import measure_shape
from prune2vec.planning.plan import PruningPlan
from tests.models.silence import plan_of, silenced
from tests.tiny import FAMILIES, tiny_model

IDS = torch.randint(3, 384, (2, 24), generator=torch.Generator().manual_seed(0))


def random_cut(model: PreTrainedModel, seed: int) -> PruningPlan:
    draw = random.Random(seed)
    layers = sorted(draw.sample(range(5), draw.randint(3, 5)))
    attention, mlp = draw.sample(layers, 1), draw.sample(layers, draw.randint(1, 2))
    if find_family(model, model.config).first_stays:
        layers, mlp = sorted({0, *layers}), [layer for layer in mlp if layer]
    kept = Kept.of(layers, drop_attention=attention, drop_mlp=mlp)
    width = measure_shape(model, find_family(model, model.config), bytes_per_param=4).mlp_width[0]
    neurons = {
        layer: tuple(sorted(draw.sample(range(width), draw.randint(1, width - 1))))
        for layer in kept.mlps
        if draw.random() < 0.7
    }
    return plan_of(model, kept, neurons)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(3))
def test_the_cut_model_is_the_whole_one_with_silent_parts(family: str, seed: int) -> None:
    model = tiny_model(family)
    plan = random_cut(model, seed)
    with silenced(model, plan), torch.inference_mode():
        expected = model(input_ids=IDS, use_cache=False)[0]
    cut = cut_model(model, plan.kept, plan.neurons)
    torch.testing.assert_close(cut(input_ids=IDS, use_cache=False)[0], expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) == plan.shape.params(plan.kept)
    assert layout_of(cut) == tuple(
        type(block)(attention=layer not in plan.drop_attention, mlp=layer in plan.kept.mlps, width=width)
        for layer, block, width in zip(plan.keep_layers, layout_of(cut), _widths(plan), strict=True)
    )
    reference = reference_cut(cut, model.config, plan.keep_layers, layout_of(cut))
    torch.testing.assert_close(reference(input_ids=IDS, use_cache=False)[0], expected, atol=1e-5, rtol=1e-5)


def _widths(plan: PruningPlan) -> list[int | None]:
    full = plan.shape.mlp_width
    return [len(plan.neurons.get(layer, range(full[layer]))) if layer in plan.kept.mlps else None for layer in plan.keep_layers]


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_widths_give_a_stock_config(family: str) -> None:
    model = tiny_model(family)
    plan = plan_of(model, Kept.of(range(4)), {layer: tuple(range(layer, layer + 20)) for layer in range(4)})
    cut = cut_model(model, plan.kept, plan.neurons)
    assert is_even(layout_of(cut))
    stock = without_head(type(model)(cut.config))
    stock.load_state_dict(cut.state_dict(), strict=True)
    stock.eval()
    with silenced(model, plan), torch.inference_mode():
        expected = model(input_ids=IDS, use_cache=False)[0]
        torch.testing.assert_close(stock(input_ids=IDS, use_cache=False)[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_leaves_the_model_as_it_was(family: str) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = random_cut(model, 1)
    cut = cut_model(model, plan.kept, plan.neurons)
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_layout_survives_the_config() -> None:
    model = tiny_model("llama")
    plan = random_cut(model, 2)
    layout = layout_of(cut_model(model, plan.kept, plan.neurons))
    entries = per_layer_config(layout, "intermediate_size")
    assert read_layout(entries, "intermediate_size", len(layout)) == layout


def test_an_undecided_width_is_refused() -> None:
    with pytest.raises(PlanError, match="prune2vec slim"):
        cut_model(tiny_model("llama"), Kept.of(range(3), width_cut=Fraction(3, 10)))


def test_widths_without_neurons_are_refused() -> None:
    with pytest.raises(PlanError, match="which neurons stay"):
        cut_model(tiny_model("llama"), Kept(layers=(0, 1, 2), widths={0: 7}))


def mixed_model() -> PreTrainedModel:
    """A model whose first block is dense and whose others are mixtures of experts."""
    torch.manual_seed(0)
    moe = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_only_layers": [0]}
    return AutoModel.from_config(AutoConfig.for_model("qwen3_moe", **FAMILIES["qwen3"], **moe)).eval()


def test_dense_blocks_among_mixtures_of_experts_lose_sub_layers_but_no_neurons() -> None:
    model = mixed_model()
    plan = plan_of(model, Kept.of(range(5), drop_attention=[1], drop_mlp=[0, 3]), {})
    assert not plan.shape.knows_neurons
    with silenced(model, plan), torch.inference_mode():
        expected = model(input_ids=IDS, use_cache=False)[0]
    cut = cut_model(model, plan.kept, plan.neurons)
    torch.testing.assert_close(cut(input_ids=IDS, use_cache=False)[0], expected, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) == plan.shape.params(plan.kept)


def test_norms_on_the_stream_are_refused() -> None:
    model = tiny_model("opt", do_layer_norm_before=False)
    with pytest.raises(UnsupportedModel, match="no sub-layer can be taken out"):
        cut_model(model, Kept.of(range(5), drop_mlp=[1]))
