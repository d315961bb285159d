from __future__ import annotations

import json
import random
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from prune2vec.errors import PlanError
from prune2vec.models.cut import cut_model
from prune2vec.models.families import block_list, find_family
from prune2vec.models.kept import Kept
from prune2vec.models.shape import _NEURONS, _PARTS, ModelShape, measure_shape
from prune2vec.planning.plan import PruningPlan
from prune2vec.planning.plan_view import plan_figures
from prune2vec.settings import adapter, read_as
from tests.models.silence import plan_of
from tests.planning.made import made_shape
from tests.tiny import ENCODERS, FAMILIES, tiny_model


def written(shape: ModelShape) -> dict[str, object]:
    return json.loads(json.dumps(adapter(ModelShape).dump_python(shape, mode="json")))  # type: ignore[no-any-return]


def read_back(value: object) -> ModelShape:
    return read_as(ModelShape, value).checked()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_arithmetic_gives_the_parameters_of_really_cut_models(family: str) -> None:
    model = tiny_model(family)
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=4)
    assert shape.params(range(5)) == sum(parameter.numel() for parameter in model.parameters())
    for keep in ([0], [0, 1, 2], [0, 4] if shape.first_stays else [1, 4]):
        cut = cut_model(model, keep)
        assert shape.params(keep) == sum(parameter.numel() for parameter in cut.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_measured_shape_names_its_parts(family: str) -> None:
    model = tiny_model(family)
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=2)
    embeddings = model.get_input_embeddings().weight.numel()
    # Positions, kinds of tokens, norms and relative positions (32 for each of 4 heads).
    learned = {"gpt2": 256 * 32, "opt": 258 * 32, "modernbert": 32, "mpnet": 258 * 32 + 32 * 4, "distilbert": 258 * 32}
    learned |= dict.fromkeys(("bert", "roberta", "xlm-roberta"), (256 + 2 + 2) * 32)
    assert shape.embedding_params == embeddings + learned.get(family, 0)
    kind = family.partition("+")[0]
    assert (shape.model_type, shape.num_layers, shape.hidden_size, shape.attention_width) == (kind, 5, 32, 32)
    assert all(0 < matrices <= whole for matrices, whole in zip(shape.block_matmul_params, shape.block_params, strict=True))
    assert 32 <= shape.final_params <= 64 or (family in ENCODERS and not shape.final_params)
    assert (shape.token_rows, shape.token_params) == (384, 32)


def test_a_second_table_by_token_makes_tokens_unknown() -> None:
    # Gemma 3n has one; here the model has as many positions as tokens.
    model = tiny_model("gpt2", n_positions=384)
    assert measure_shape(model, find_family(model, model.config), bytes_per_param=2).token_rows == 0


def random_plan(model: PreTrainedModel, seed: int) -> PruningPlan:
    """Return a plan that drops blocks, attentions and MLPs of a tiny model and narrows what is left of it, unevenly."""
    draw = random.Random(seed)
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=4)
    layers = draw.sample(range(5), draw.randint(2, 5))
    if shape.first_stays:
        layers = list({0, *layers})
    attention, mlp = draw.sample(layers, draw.randint(0, 2)), draw.sample(layers, draw.randint(0, len(layers) - 1))
    kept = Kept.of(layers, drop_attention=attention, drop_mlp=set(mlp) - {0} if shape.first_stays else mlp)
    width = shape.mlp_width[0]
    neurons = {
        layer: tuple(sorted(draw.sample(range(width), draw.randint(1, width)))) for layer in kept.mlps[draw.randint(0, 1) :]
    }
    return plan_of(model, kept, neurons)


def counted_flops(model: PreTrainedModel, length: int) -> int:
    """Return the FLOPs that torch counts in the blocks in a forward pass of one sequence."""
    ids = torch.randint(3, 384, (1, length), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(input_ids=ids, use_cache=False)
    counts = counter.get_flop_counts()
    names = {type(model).__name__ + "." + path for path, module in model.named_modules() if module in set(blocks_of(model))}
    return sum(sum(counts[name].values()) for name in names)


def blocks_of(model: PreTrainedModel) -> list[torch.nn.Module]:
    return list(block_list(model, find_family(model, model.config)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("seed", range(4))
def test_what_a_plan_shows_is_what_the_built_model_has(family: str, seed: int) -> None:
    """Parameters are equal to the last one, and so are the FLOPs of the matrices.

    Torch counts what is multiplied: eager attention multiplies each of ``length`` queries with every key, 4 * length^2 * width
    for scores and weighted sum. A plan counts what causal attention needs, half of that and the diagonal. So attention is
    taken out of both, by those two formulas, and compared by itself. Rotary angles, outside the blocks, count in neither.
    """
    model = tiny_model(family, attn_implementation="eager")
    plan = random_plan(model, seed)
    cut, length = cut_model(model, plan.kept, plan.neurons), 12
    figures = plan_figures(plan, length=length)
    assert figures["params"]["after"] == sum(parameter.numel() for parameter in cut.parameters())
    assert figures["params"]["before"] == sum(parameter.numel() for parameter in model.parameters())
    for built, flops, attentions in ((model, "before", 5), (cut, "after", len(plan.kept.attentions))):
        width = plan.shape.attention_width
        seen = length + 1 if plan.shape.causal else 2 * length
        matrices = figures["flops_per_token"][flops] - attentions * 2 * seen * width
        assert counted_flops(built, length) == length * matrices + attentions * 4 * length**2 * width


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_width_cut_counts_like_the_neurons_that_it_will_take(family: str) -> None:
    shape = measure_shape(tiny_model(family), find_family(tiny_model(family), tiny_model(family).config), bytes_per_param=4)
    to_cut = Kept.of(range(4), drop_mlp=(1,), width_cut=Fraction(1, 3))
    gone = to_cut.cut_neurons(shape.mlp_width)
    cut = Kept(layers=(0, 1, 2, 3), drop_mlp=(1,), widths={2: shape.mlp_width[2] - 1, 3: shape.mlp_width[3] - gone + 1})
    assert gone == 3 * shape.mlp_width[0] // 3
    assert shape.params(to_cut) == shape.params(cut) < shape.params(Kept.of(range(4), drop_mlp=(1,)))
    assert shape.flops_per_token(to_cut) == shape.flops_per_token(cut)
    assert shape.memory_bytes(to_cut) == shape.memory_bytes(cut)


def test_parts_by_hand() -> None:
    shape, width = made_shape(4), 2 * (3 + 1) * 32
    assert shape.params(Kept.of(range(2), drop_attention=(0,), drop_mlp=(1,))) == 5032 + (1000 - 333) + 333
    assert shape.flops_per_token(Kept.of(range(2), drop_attention=(0,), drop_mlp=(1,)), length=3) == 2 * (635 + 301) + width
    assert shape.params(Kept.of([1], width_cut=Fraction(1, 2))) == 5032 + 1001 - 30 * 10
    assert shape.params(Kept(layers=(1, 2), widths={2: 59})) == 5032 + 1001 + 1002 - 10
    assert shape.params(Kept(layers=(1,), drop_mlp=(1,), width_cut=Fraction(1, 2))) == 5032 + 333


def test_what_is_not_known_is_not_counted() -> None:
    shape = made_shape(4)
    whole = replace(shape, **dict.fromkeys(_PARTS, ()), **dict.fromkeys(_NEURONS, ()))
    assert not whole.knows_sub_layers and not whole.knows_neurons and shape.knows_sub_layers and shape.knows_neurons
    assert whole.params(range(4)) == shape.params(range(4))
    assert read_back(written(whole)) == whole
    with pytest.raises(PlanError, match=r"^llama: its attention and MLP are not known apart"):
        whole.params(Kept.of(range(4), drop_mlp=(1,)))
    with pytest.raises(PlanError, match=r"^llama: the neurons of its MLPs are not known"):
        whole.flops_per_token(Kept.of(range(4), width_cut=Fraction(1, 2)))


def test_params_by_hand() -> None:
    shape = made_shape(4)
    assert shape.params([0, 3]) == 5000 + 32 + 1000 + 1003
    assert shape.params(range(4)) == 5000 + 32 + 4006
    assert shape.proportional_params(1) == round(9038 / 4) and shape.proportional_params(4) == 9038


def test_fewer_token_embeddings() -> None:
    shape = replace(made_shape(4), token_rows=100, token_params=40)
    few = Kept(layers=(0, 1), vocabulary=30)
    assert shape.params(few) == shape.params((0, 1)) - 70 * 40
    assert shape.with_tokens(30).params((0, 1)) == shape.params(few)
    assert shape.with_tokens(None) == shape
    assert shape.memory_bytes((0, 1)) - shape.memory_bytes(few) == 70 * 40 * shape.bytes_per_param
    assert shape.flops_per_token(few) == shape.flops_per_token((0, 1))


def test_flops_by_hand() -> None:
    # Three tokens of width 32 attend to 1, 2 and 3 tokens: 6 scores and 6 sums of 2 * 32 FLOPs, over three tokens.
    attention = 6 * 2 * (2 * 32) / 3
    assert made_shape(4).flops_per_token([1], length=3) == 2 * (1001 - 64) + attention
    assert made_shape(4).flops_per_token(iter([0, 2]), length=3) == 2 * (936 + 938) + 2 * attention


def test_memory_is_weights_and_activations() -> None:
    shape = made_shape(4)
    assert shape.memory_bytes([0]) == 2 * (5032 + 1000) + 8 * 16384 * 32 * 2


def test_json_round_trip() -> None:
    shape = made_shape(3)
    assert read_back(written(shape)) == shape


@pytest.mark.parametrize(
    "change",
    [
        {"block_params": [1, 2]},
        {"block_matmul_params": [1]},
        {"block_params": 3},
        {"block_params": ["a", "b", "c"]},
        {"hidden_size": None},
        {"hidden_size": "wide"},
        {"num_layers": 0, "block_params": [], "block_matmul_params": []},
        {"num_layers": 4},
        {"attention_params": [1, 2]},
        {"mlp_width": [60]},
        {"token_rows": 9},
        {"token_rows": 100, "token_params": 51},
        {"extra": 1},
    ],
)
def test_a_broken_shape_is_one_line(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_back({**written(made_shape(3)), **change})


@pytest.mark.parametrize("value", [None, [], 3, "shape", {}])
def test_what_is_no_shape_is_one_line(value: object) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        read_back(value)
