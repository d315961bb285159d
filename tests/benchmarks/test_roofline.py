"""The share that was reached follows from speed, sizes and the best product."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import roofline
from roofline import Reached

from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape

SHAPE = ModelShape(
    model_type="llama",
    num_layers=2,
    hidden_size=4,
    attention_width=4,
    embedding_params=100,
    block_params=(1000, 1000),
    block_matmul_params=(990, 990),
    final_params=4,
    bytes_per_param=2,
)


def test_share_of_the_best_product() -> None:
    per_token = 2 * 2 * 990 + 2 * 2 * (9 + 1) * 4
    row = roofline.row_of(Reached("x", "float32", 100.0, 9), SHAPE, {"float32": 100.0 * per_token * 4})
    assert row["flops_per_s"] == 100.0 * per_token
    assert row["share"] == pytest.approx(0.25)
    half = roofline.row_of(Reached("x", "float16", 100.0, 9, passes=3.0, kept=Kept.of([0])), SHAPE, {"float32": 1.0})
    assert (half["flops_per_s"], half["share"]) == (100.0 * per_token / 2 * 3, None)


def test_speeds_are_read_from_result_files(tmp_path: Path) -> None:
    sides = {"paper's way": {"dtype": "float32", "tokens_per_s": 1.0}, "prune2vec": {"dtype": "bfloat16", "tokens_per_s": 8.0}}
    settings = {"dtype": "float32"}
    speeds = {"best": 1.0, "prune2vec": 5.0}
    encode = {"short queries": {"texts": 10, "tokens": 120, "texts_per_s": speeds}}
    steps = {"7 layers, 8 x 3 texts": {"sides": {"plain": {"tokens_per_s": 1.0}, "packed": {"tokens_per_s": 3.0}}}}
    results = {
        "profile-speed": {"ways": {"same format": {"sides": sides}}},
        "encode-speed": {"settings": settings, "encoder": "nowhere", "workloads": encode},
        "train-speed": {"settings": settings, "cases": steps},
    }
    for name, content in results.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert list(roofline.reached_speeds(tmp_path, 2.0)) == [
        Reached("profile-speed: same format", "bfloat16", 8.0),
        Reached("encode-speed: short queries", "float32", 60.0, 12),
        Reached("train-speed: 7 layers, 8 x 3 texts, packed", "float32", 3.0, passes=2.0, kept=Kept.of(range(7))),
    ]
    assert list(roofline.reached_speeds(tmp_path / "none", 2.0)) == []
