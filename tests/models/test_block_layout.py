"""The config of an uneven model, and the structure that is built from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prune2vec.errors import CheckpointError
from prune2vec.models.block_layout import layout_of, load_uneven, load_with_layout, read_uneven, uneven_config, uneven_layout
from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from tests.models.silence import plan_of
from tests.tiny import FAMILIES, tiny_model

IDS = torch.randint(3, 384, (2, 24), generator=torch.Generator().manual_seed(0))
NEURONS = {0: tuple(range(20)), 2: (0,)}


@pytest.mark.parametrize("family", FAMILIES)
def test_written_and_read_back(tmp_path: Path, family: str) -> None:
    model = tiny_model(family)
    plan = plan_of(model, Kept.of(range(4), drop_mlp=[1], drop_attention=[3]), NEURONS)
    cut = cut_model(model, plan.kept, plan.neurons)
    layout = uneven_layout(cut)
    assert layout == layout_of(cut)
    cut.save_pretrained(tmp_path)
    entries = uneven_config(cut.config.to_dict(), cut, layout)
    config, read = read_uneven(entries)
    assert read == layout
    # A width that a block has would build that block with stock classes.
    assert [key for key, value in entries.items() if value == 2 and cut.config.to_dict()[key] != 2] != []
    loaded = load_uneven(str(tmp_path), config, read)
    assert type(loaded) is type(model)
    torch.testing.assert_close(
        loaded(input_ids=IDS, use_cache=False)[0], cut(input_ids=IDS, use_cache=False)[0], rtol=0, atol=0
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_models_have_no_uneven_layout(family: str) -> None:
    model = tiny_model(family)
    assert uneven_layout(model) == ()
    uniform = {layer: tuple(range(layer, layer + 9)) for layer in range(3)}
    plan = plan_of(model, Kept.of(range(3)), uniform)
    assert uneven_layout(cut_model(model, plan.kept, plan.neurons)) == ()


def test_other_tensors_in_whole_blocks_are_refused() -> None:
    model = tiny_model("llama")
    model.layers[2].mlp.register_parameter("extra", torch.nn.Parameter(torch.ones(1)))
    with pytest.raises(CheckpointError, match=r"layers\.2\.mlp\.extra"):
        uneven_layout(model)


def test_without_a_layout_it_is_from_pretrained(tmp_path: Path) -> None:
    model = tiny_model("gemma2")
    model.save_pretrained(tmp_path)
    loaded, info = load_with_layout(type(model), (), str(tmp_path))
    assert type(loaded) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded(input_ids=IDS)[0], model(input_ids=IDS)[0])


def test_layer_numbers_with_leading_zeros() -> None:
    """Transformers writes them so when it saves such a config itself."""
    model = tiny_model("llama")
    cut = cut_model(model, Kept.of(range(4), drop_mlp=[1]))
    entries = uneven_config(cut.config.to_dict(), cut, uneven_layout(cut))
    padded = {**entries, "per_layer_config": {number.zfill(2): entry for number, entry in entries["per_layer_config"].items()}}
    assert read_uneven(padded)[1] == uneven_layout(cut)
