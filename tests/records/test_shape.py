from __future__ import annotations

import json

import pytest

from prune2vec.backbone.load import measure_shape
from prune2vec.errors import DataError
from prune2vec.families import find_family
from prune2vec.records.shape import ModelShape
from prune2vec.surgery.cut import cut_model
from tests.planners.made import made_shape
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_arithmetic_gives_the_parameters_of_really_cut_models(family: str) -> None:
    model = tiny_model(family)
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=4)
    assert shape.params(range(5)) == sum(parameter.numel() for parameter in model.parameters())
    for keep in ([0], [0, 1, 2], [1, 4]):
        cut = cut_model(model, keep)
        assert shape.params(keep) == sum(parameter.numel() for parameter in cut.parameters())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_measured_shape_names_its_parts(family: str) -> None:
    model = tiny_model(family)
    shape = measure_shape(model, find_family(model, model.config), bytes_per_param=2)
    embeddings = model.get_input_embeddings().weight.numel()
    learned_positions = {"gpt2": 256 * 32, "opt": 258 * 32}
    assert shape.embedding_params == embeddings + learned_positions.get(family, 0)
    assert (shape.model_type, shape.num_layers, shape.hidden_size, shape.attention_width) == (family, 5, 32, 32)
    assert all(0 < matrices <= whole for matrices, whole in zip(shape.block_matmul_params, shape.block_params, strict=True))
    assert 32 <= shape.final_params <= 64


def test_params_by_hand() -> None:
    shape = made_shape(4)
    assert shape.params([0, 3]) == 5000 + 32 + 1000 + 1003
    assert shape.params(range(4)) == 5000 + 32 + 4006
    assert shape.proportional_params(1) == round(9038 / 4) and shape.proportional_params(4) == 9038


def test_flops_by_hand() -> None:
    # Three tokens of width 32 attend to 1, 2 and 3 tokens: 6 scores and 6 sums of 2 * 32 FLOPs, over three tokens.
    attention = 6 * 2 * (2 * 32) / 3
    assert made_shape(4).flops_per_token([1], length=3) == 2 * (1001 - 64) + attention
    assert made_shape(4).flops_per_token(iter([0, 2]), length=3) == 2 * (936 + 938) + 2 * attention


def test_memory_is_weights_and_activations() -> None:
    shape = made_shape(4)
    assert shape.memory_bytes([0], batch_tokens=10) == 2 * (5032 + 1000) + 8 * 10 * 32 * 2


def test_json_round_trip() -> None:
    shape = made_shape(3)
    assert ModelShape.from_json(json.loads(json.dumps(shape.to_json())), where="x") == shape


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
        {"extra": 1},
    ],
)
def test_a_broken_shape_is_one_line(change: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"^p.json: broken model shape \([^\n]+\); make the file again[^\n]*$"):
        ModelShape.from_json({**made_shape(3).to_json(), **change}, where="p.json")


@pytest.mark.parametrize("value", [None, [], 3, "shape", {}])
def test_what_is_no_shape_is_one_line(value: object) -> None:
    with pytest.raises(DataError, match=r"^p.json: broken model shape [^\n]+$"):
        ModelShape.from_json(value, where="p.json")  # type: ignore[arg-type]
