"""The heart of the profile: one pass over all depths equals the models really cut to each depth."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prune2vec.errors import ProfileError
from prune2vec.forward import runner as resident
from prune2vec.forward.backbone import Backbone, PooledDepths, load_backbone
from prune2vec.forward.memory_plan import bytes_per_token
from prune2vec.forward.pooling import pool, poolings
from prune2vec.forward.runner import ObservedRun
from prune2vec.models.cut import cut_model
from prune2vec.models.tokens import TokenRow
from tests.tiny import FAMILIES, VOCAB, save_tiny


def random_rows(count: int, seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 40, (count,), generator=generator).tolist()
    ids = [tuple(torch.randint(4, VOCAB, (length,), generator=generator).tolist()) for length in lengths]
    return [TokenRow(row, start=place % 3) for place, row in enumerate(ids)]


def tiny_backbone(tmp_path: Path, family: str) -> Backbone:
    return load_backbone(str(save_tiny(tmp_path / family, family)), dtype="float32", device="cpu")


def pooled_depths(
    backbone: Backbone, rows: Sequence[TokenRow], *, pooling: str, token_budget: int | None = None
) -> torch.Tensor:
    """Return the pooled vector of every row at every depth: (depth, row, dim)."""
    out = torch.empty(backbone.shape.num_layers, len(rows), backbone.shape.hidden_size)

    def keep(layers: tuple[int, ...], places: Sequence[int], vectors: torch.Tensor) -> None:
        out[torch.tensor(layers)[:, None], torch.tensor(places)] = vectors.cpu()

    run = ObservedRun(observers=[PooledDepths(backbone, pooling, keep)])
    backbone.runner.run(rows, [run], token_budget=token_budget)
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_every_depth_equals_the_model_cut_to_it(tmp_path: Path, family: str) -> None:
    backbone = tiny_backbone(tmp_path, family)
    rows = random_rows(9)
    vectors = pooled_depths(backbone, rows, pooling="weightedmean", token_budget=100)
    for depth in range(1, backbone.shape.num_layers + 1):
        model = cut_model(backbone.model, range(depth))
        for place, row in enumerate(rows):
            ids = torch.tensor([row.ids])
            pooled = torch.ones_like(ids)
            pooled[:, : row.start] = 0
            with torch.inference_mode():
                states = model(input_ids=ids, use_cache=False).last_hidden_state
            expected = pool(states, poolings.get("weightedmean")(pooled, torch.ones_like(ids)))[0]
            torch.testing.assert_close(vectors[depth - 1, place], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["mean", "weightedmean", "lasttoken"])
def test_batching_and_padding_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, pooling: str) -> None:
    backbone = tiny_backbone(tmp_path, family)
    rows = random_rows(9, seed=1)
    together = pooled_depths(backbone, rows, pooling=pooling, token_budget=10_000)
    alone = pooled_depths(backbone, rows, pooling=pooling, token_budget=1)
    monkeypatch.setattr(resident, "packing_obstacle", lambda *args, **options: "not wanted")
    padded = pooled_depths(replace(backbone), rows, pooling=pooling, token_budget=10_000)
    for other in (alone, padded):
        torch.testing.assert_close(together, other, rtol=1e-5, atol=1e-5)


def test_only_one_layers_states_are_alive(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, "llama")
    alive: list[torch.Tensor] = []
    seen = 0

    def watch(module: object, args: object, output: object) -> None:
        nonlocal seen
        import weakref

        states = output[0] if isinstance(output, tuple) else output
        alive[:] = [reference for reference in alive if reference() is not None]  # type: ignore[operator]
        alive.append(weakref.ref(states))  # type: ignore[arg-type]
        seen = max(seen, len(alive))

    handles = [block.register_forward_hook(watch) for block in backbone.model.layers]
    pooled_depths(backbone, random_rows(4), pooling="mean")
    for handle in handles:
        handle.remove()
    assert seen <= 2  # a block's input is alive while it computes its output


def test_nan_weights_are_reported_with_depth_text_and_format(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, "llama")
    backbone.model.layers[2].mlp.up_proj.weight.data[0] = float("nan")
    with pytest.raises(ProfileError, match=r"depth 3 of 5 in float32 for the text"):
        pooled_depths(backbone, random_rows(3), pooling="mean")


def test_hooks_are_gone_afterwards(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, "llama")
    pooled_depths(backbone, random_rows(2), pooling="mean")
    assert not any(block._forward_hooks for block in backbone.model.layers)


def test_batches_shrink_to_the_memory_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, sizes = tiny_backbone(tmp_path, "llama"), []
    handle = backbone.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    whole = pooled_depths(backbone, random_rows(9), pooling="mean")
    assert sizes[-1] == sum(len(row.ids) for row in random_rows(9))
    sizes.clear()
    monkeypatch.setattr(resident, "memory_in_use", lambda device: 0)
    per_token = bytes_per_token(backbone.model, backbone.family)
    longest = max(len(row.ids) for row in random_rows(9))
    small = replace(backbone, memory=per_token * longest)
    for _ in range(2):  # The first time, it is found out how the model takes rows.
        sizes.clear()
        torch.testing.assert_close(pooled_depths(small, random_rows(9), pooling="mean"), whole, rtol=1e-5, atol=1e-5)
    assert max(sizes) == longest
    assert sum(sizes) == sum(len(row.ids) for row in random_rows(9))
    assert len(sizes) > 2
    handle.remove()
