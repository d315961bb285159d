"""Curves of cut models, against a float64 loss of the whole model with silent parts, depth by depth."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prune2vec.forward.backbone import Backbone
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.families import block_list
from prune2vec.models.kept import Kept
from prune2vec.profiling.cut_loss import drop_counts
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import redundancy
from prune2vec.profiling.token_groups import distinct_rows, token_count
from tests.models.silence import plan_of, silenced
from tests.profiling.test_conformance import section_of
from tests.profiling.test_layer_loss import by_hand, random_groups, tiny_backbone

FAMILIES = ["llama", "gemma2", "gpt2", "phi", "phi3", "opt"]


@pytest.mark.parametrize("family", FAMILIES)
def test_curves_are_those_of_models_with_silent_parts(tmp_path: Path, family: str) -> None:
    backbone, groups = tiny_backbone(tmp_path, family), random_groups(groups=1)
    section = section_of(backbone, "cut-loss", groups, ProfileSettings(), [])
    rows, parts = distinct_rows(groups), sub_layers_of(backbone.model)
    order = section["mlp_order"]
    assert order == list(redundancy(backbone, parts, rows).order("mlp"))
    assert section["drops"] == [0, 1, 2, 3]
    for count, curve in zip(section["drops"], section["drop_loss"], strict=True):
        for depth in range(1, 6):
            kept = Kept.of(range(depth), drop_mlp=order[:count])
            with silenced(backbone.model, plan_of(backbone.model, kept, {})):
                assert curve[depth - 1] == pytest.approx(by_hand(backbone.model, groups[0]), rel=1e-4, abs=1e-5)
    assert section["width_cuts"] == ["0", "1/10", "1/5", "3/10", "1/2"]
    assert section["width_loss"][0] == section["drop_loss"][0]
    activity = activity_by_hand(backbone, parts.neurons.out)
    for share, curve in zip(section["width_cuts"], section["width_loss"], strict=True):
        gone = sorted((value, layer, neuron) for layer, row in enumerate(activity) for neuron, value in enumerate(row))
        gone = gone[: int(Fraction(share) * len(gone))]
        stays = {
            layer: tuple(n for n in range(len(row)) if (row[n], layer, n) not in gone) for layer, row in enumerate(activity)
        }
        with silenced(backbone.model, plan_of(backbone.model, Kept.of(range(5)), stays)):
            assert curve[-1] == pytest.approx(by_hand(backbone.model, groups[0]), rel=1e-4, abs=1e-5)


def activity_by_hand(backbone: Backbone, out: str) -> list[list[float]]:
    """Return mean |activation| of every neuron from one text at a time, in float64."""
    rows, seen = distinct_rows(random_groups(groups=1)), {}
    handles = []
    for layer, block in enumerate(block_list(backbone.model, backbone.family)):

        def keep(module: object, args: tuple[Tensor, ...], layer: int = layer) -> None:
            seen.setdefault(layer, []).append(args[0].double().abs().flatten(0, -2))

        handles.append(block.get_submodule(out).register_forward_pre_hook(keep))
    for row in rows:
        with torch.inference_mode():
            backbone.model(input_ids=torch.tensor([row.ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [torch.cat(seen[layer]).mean(dim=0).tolist() for layer in range(5)]


@pytest.mark.parametrize(
    ("layers", "expected"), [(1, ()), (2, (1,)), (5, (1, 2, 3)), (30, (3, 7, 11, 15, 18, 22)), (32, (4, 8, 12, 16, 20, 24))]
)
def test_counts_are_eighths_up_to_three_quarters(layers: int, expected: tuple[int, ...]) -> None:
    assert drop_counts(layers) == expected


def test_a_family_without_known_neurons_has_no_width_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = Backbone.sub_layers
    monkeypatch.setattr(Backbone, "sub_layers", lambda self: replace(known(self), neurons=None))
    done: list[float] = []
    section = section_of(tiny_backbone(tmp_path, "llama"), "cut-loss", random_groups(), ProfileSettings(), done)
    assert section["width_cuts"] == ["0"]
    assert section["width_loss"] == [section["drop_loss"][0]]
    assert sum(done) == (1 + 3) * token_count(random_groups())
