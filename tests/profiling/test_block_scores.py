"""Magnitudes and angles against float64, one text at a time."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from prune2vec.errors import ProfileError
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.forward.runner import ObservedRun
from prune2vec.models.families import block_list
from prune2vec.models.tokens import TokenRow
from prune2vec.profiling.block_scores import AngularDistance, BlockMagnitude
from prune2vec.profiling.token_groups import distinct_rows
from tests.profiling.test_layer_loss import random_groups, tiny_backbone
from tests.tiny import save_tiny

FAMILIES = ["llama", "gpt2", "gemma3_text", "phi", "gpt_neox"]


def stream_of(backbone: Backbone, row: TokenRow) -> list[torch.Tensor]:
    """Return the residual stream of one text, (token, dim) float64: what the first block is given, and what each returns."""
    model, seen = copy.deepcopy(backbone.model).double(), list[torch.Tensor]()

    def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        before = args[0] if args else kwargs["hidden_states"]
        seen.extend([before[0]] if not seen else [])
        seen.append((output[0] if isinstance(output, tuple) else output)[0])

    for block in block_list(model, backbone.family):
        block.register_forward_hook(hook, with_kwargs=True)
    with torch.inference_mode():
        model(input_ids=torch.tensor([row.ids]), use_cache=False)
    return seen


def found(backbone: Backbone, measurement: Any, *, token_budget: int | None = None) -> dict[str, Any]:
    backbone.runner.run(measurement.rows, [ObservedRun(observers=[measurement])], token_budget=token_budget)
    result: dict[str, Any] = measurement.result()
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_magnitude(tmp_path: Path, family: str) -> None:
    backbone, rows = tiny_backbone(tmp_path, family), distinct_rows(random_groups())
    streams = [stream_of(backbone, row) for row in rows]
    result = found(backbone, BlockMagnitude(backbone, rows))
    blocks = block_list(backbone.model, backbone.family)
    for layer, block in enumerate(blocks):
        ratios = [(s[layer + 1] - s[layer]).norm(dim=-1) / s[layer + 1].norm(dim=-1) for s in streams]
        assert result["relative"][layer] == pytest.approx(float(torch.cat(ratios).mean()), rel=1e-5)
        weights = sum(float(weight.detach().double().abs().sum()) for weight in block.parameters())
        assert result["weight"][layer] == pytest.approx(weights, rel=1e-9)
    assert result["tokens"] == sum(len(row.ids) for row in rows)
    again = found(backbone, BlockMagnitude(backbone, rows), token_budget=64)
    assert again["relative"] == pytest.approx(result["relative"], rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_angular_distance(tmp_path: Path, family: str) -> None:
    backbone, rows = tiny_backbone(tmp_path, family), distinct_rows(random_groups())
    ends = torch.stack([torch.stack([states[-1] for states in stream_of(backbone, row)]) for row in rows], dim=1)
    result = found(backbone, AngularDistance(backbone, rows))
    for layer in range(5):
        for n in range(1, 6 - layer):
            cosines = torch.cosine_similarity(ends[layer], ends[layer + n], dim=-1).clamp(-1, 1)
            expected = float(cosines.arccos().mean()) / math.pi
            assert result["distance"][layer][n - 1] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert result["texts"] == len(rows)


def test_only_so_many_states_are_kept_and_which_does_not_depend_on_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, rows = tiny_backbone(tmp_path, "llama"), distinct_rows(random_groups())
    first = found(backbone, AngularDistance(backbone, rows[:7]))
    monkeypatch.setattr("prune2vec.profiling.block_scores._STATES_BYTES", 7 * 4 * 6 * backbone.model.config.hidden_size)
    for budget in (None, 64):
        limited = found(backbone, AngularDistance(backbone, rows), token_budget=budget)
        assert limited["texts"] == 7
        for row, expected in zip(limited["distance"], first["distance"], strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_a_block_that_does_nothing_has_no_magnitude_and_turns_nothing(tmp_path: Path) -> None:
    backbone, rows = tiny_backbone(tmp_path, "llama"), distinct_rows(random_groups())
    block: Any = block_list(backbone.model, backbone.family)[2]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()
    assert found(backbone, BlockMagnitude(backbone, rows))["relative"][2] == 0
    assert found(backbone, AngularDistance(backbone, rows))["distance"][2][0] == 0


@pytest.mark.parametrize("kind", [BlockMagnitude, AngularDistance])
def test_nan_is_an_error_that_names_the_layer(tmp_path: Path, kind: Any) -> None:
    folder = save_tiny(tmp_path / "m", "llama")
    backbone = load_backbone(str(folder), dtype="float32", device="cpu")
    with torch.no_grad():
        block_list(backbone.model, backbone.family)[3].mlp.down_proj.weight.fill_(math.nan)  # type: ignore[union-attr, operator]
    with pytest.raises(ProfileError, match="at layer 3 in float32"):
        found(backbone, kind(backbone, distinct_rows(random_groups())))
