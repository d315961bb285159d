"""A model read block by block computes what it computes in memory, holds two blocks at most, and leaves nothing behind."""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from prune2vec.backbone import streamed as streamed_module
from prune2vec.backbone.blockfiles import BlockFiles
from prune2vec.backbone.depths import pooled_depths
from prune2vec.backbone.load import Backbone, load_backbone
from prune2vec.backbone.passes import Look, Variant, Watcher
from prune2vec.backbone.room import Room
from prune2vec.errors import ProfileError, UnsupportedModel
from prune2vec.families import block_list
from prune2vec.records.kept import Kept
from tests.backbone.test_depths import random_rows
from tests.tiny import FAMILIES, save_tiny, tiny_model, tiny_tokenizer

BLOCK_BYTES = 4 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48 + 2 * 32)


def both(folder: Path, dtype: str = "float32") -> tuple[Backbone, Backbone]:
    one, other = (load_backbone(str(folder), dtype=dtype, device="cpu", stream=stream) for stream in ("off", "on"))
    return one, other


def vectors(backbone: Backbone, budget: int = 100, seed: int = 0, pooling: str = "weightedmean") -> torch.Tensor:
    return pooled_depths(backbone, random_rows(9, seed), pooling=pooling, token_budget=budget)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_depth_is_that_of_the_model_in_memory(tmp_path: Path, family: str) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m", family))
    assert streamed.shape == resident.shape
    assert streamed.identity() == resident.identity()
    for seed, (budget, pooling) in enumerate([(1, "mean"), (70, "lasttoken"), (10_000, "weightedmean")]):
        expected = vectors(resident, 100, seed, pooling)
        torch.testing.assert_close(vectors(streamed, budget, seed, pooling), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_equal_batches_are_equal_to_the_bit_in_bf16(tmp_path: Path, family: str) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m", family), "bfloat16")
    assert torch.equal(vectors(streamed), vectors(resident))


def test_left_padding_gives_the_blocks_their_masks(tmp_path: Path) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m", "qwen2"))
    left = pooled_depths(streamed, random_rows(9), pooling="mean", padding_side="left")
    torch.testing.assert_close(left, vectors(resident, pooling="mean"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_neither_prefetching_nor_the_place_of_the_states_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool, in_memory: bool
) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    room = Room(prefetch=prefetch, token_budget=60, states_in_memory=in_memory)
    monkeypatch.setattr(streamed_module, "plan_room", lambda **sizes: room)
    torch.testing.assert_close(vectors(streamed), vectors(resident), rtol=1e-5, atol=1e-5)
    assert streamed.stream is not None
    assert streamed.stream.accounts[0].room == room
    assert set(tmp_path.iterdir()) == before


def test_sharded_files_and_an_untied_head(tmp_path: Path) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m", max_shard_size="60KB"))
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 3
    torch.testing.assert_close(vectors(streamed), vectors(resident), rtol=1e-5, atol=1e-5)
    assert streamed.stream is not None
    assert not any(name.startswith("lm_head") for name in streamed.stream.files.stored)


def test_blocks_are_read_once_and_only_the_rows_of_embeddings_that_are_needed(tmp_path: Path) -> None:
    _, streamed = both(save_tiny(tmp_path / "m"))
    vectors(streamed)
    assert streamed.stream is not None
    account = streamed.stream.accounts[0]
    ids = {token for row in random_rows(9) for token in row.ids} | {0}
    assert account.blocks == 5
    assert account.bytes_read == 5 * BLOCK_BYTES + len(ids) * 32 * 4
    assert account.tokens == sum(len(row.ids) for row in random_rows(9))
    assert len(account.seconds) == len(account.waiting) == 5


class Counter(Watcher):
    """Counts the block tensors that are alive whenever a block has run."""

    def __init__(self) -> None:
        self.most = 0

    def hooks(self, layer: int, block: torch.nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        return [block.register_forward_hook(lambda *args: self._count())]

    def _count(self) -> None:
        everything = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
        alive = [tensor for tensor in everything if tensor.shape == (48, 32)]
        storages = {tensor.untyped_storage().data_ptr() for tensor in alive if not tensor.is_meta}
        self.most = max(self.most, len(storages))


@pytest.mark.parametrize("prefetch", [True, False])
def test_two_blocks_at_most_have_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool) -> None:
    gc.collect()
    streamed = load_backbone(str(save_tiny(tmp_path / "m")), dtype="float32", device="cpu", stream="on")
    room = Room(prefetch=prefetch, token_budget=1000, states_in_memory=True)
    monkeypatch.setattr(streamed_module, "plan_room", lambda **sizes: room)
    counter = Counter()
    streamed.passes.run(random_rows(4), [Look(watchers=[counter])], token_budget=1000)
    # Of the shape (48, 32) each block has two matrices: gate and up.
    assert 2 <= counter.most <= (4 if prefetch else 2)
    assert all(parameter.is_meta for block in block_list(streamed.model, streamed.family) for parameter in block.parameters())


class Outputs(Watcher):
    """Keeps what each block returns, by its number in the variant."""

    def __init__(self) -> None:
        self.seen: dict[int, list[torch.Tensor]] = {}
        self.done: list[int] = []

    def hooks(self, layer: int, block: torch.nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        def keep(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
            self.seen.setdefault(layer, []).append(output.clone())

        return [block.register_forward_hook(keep)]

    def layer_done(self, layer: int) -> None:
        self.done.append(layer)


@pytest.mark.parametrize(("family", "in_memory"), [("llama", True), ("gemma3_text", False), ("phi", True)])
def test_variants_go_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, in_memory: bool) -> None:
    room = Room(prefetch=True, token_budget=90, states_in_memory=in_memory)
    monkeypatch.setattr(streamed_module, "plan_room", lambda **sizes: room)
    resident, streamed = both(save_tiny(tmp_path / "m", family))
    neurons = resident.sub_layers().neurons
    assert neurons is not None
    speaking = [torch.arange(48) % (layer + 2) > 0 for layer in range(5)]
    variants = [
        Variant(),
        Variant(kept=Kept.of([0, 2, 4])),
        Variant(kept=Kept.of(range(5), drop_attention=[1], drop_mlp=[2, 3])),
        Variant(neurons=neurons, speaking=speaking),
        Variant(kept=Kept.whole(range(2))),
    ]
    found = []
    for backbone in (resident, streamed):
        watchers = [Outputs() for _ in variants]
        looks = [Look(variant=variant, watchers=[one]) for variant, one in zip(variants, watchers, strict=True)]
        backbone.passes.run(random_rows(6), looks, token_budget=90)
        found.append(watchers)
    for expected, other in zip(*found, strict=True):
        assert expected.done == other.done == sorted(expected.seen)
        for layer, states in expected.seen.items():
            for one, two in zip(states, other.seen[layer], strict=True):
                torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    assert [len(one.seen) for one in found[1]] == [5, 3, 5, 5, 2]
    assert streamed.stream is not None
    assert streamed.stream.accounts[0].blocks == 5


def test_a_layer_that_no_variant_keeps_is_not_read(tmp_path: Path) -> None:
    _, streamed = both(save_tiny(tmp_path / "m"))
    look = Look(variant=Variant(kept=Kept.of([0, 1, 3])), watchers=[Outputs()])
    streamed.passes.run(random_rows(3), [look], token_budget=90)
    assert streamed.stream is not None
    assert streamed.stream.accounts[0].blocks == 3


def test_damage_is_told_with_its_depth_and_the_model_stays_usable(tmp_path: Path) -> None:
    model = tiny_model("llama", causal_lm=True)
    model.model.layers[2].mlp.up_proj.weight.data[0] = float("nan")
    model.save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    streamed = load_backbone(str(tmp_path / "m"), dtype="float32", device="cpu", stream="on")
    for _ in range(2):
        with pytest.raises(ProfileError, match="depth 3 of 5 in float32 for the text"):
            vectors(streamed)
    blocks = block_list(streamed.model, streamed.family)
    assert all(parameter.is_meta for block in blocks for parameter in block.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in streamed.model.modules())
    assert streamed.model.get_input_embeddings().weight.shape[0] == 384


def test_an_interruption_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, streamed = both(save_tiny(tmp_path / "m"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    room = Room(prefetch=True, token_budget=60, states_in_memory=False)
    monkeypatch.setattr(streamed_module, "plan_room", lambda **sizes: room)
    read = BlockFiles.block

    def interrupted(self: BlockFiles, layer: int) -> dict[str, torch.Tensor]:
        # A file with a name would be seen even after a kill; here there is none while the run is on.
        assert not list((tmp_path / "scratch").iterdir())
        if layer == 3:
            raise KeyboardInterrupt
        return read(self, layer)

    monkeypatch.setattr(BlockFiles, "block", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vectors(streamed)
    assert not list((tmp_path / "scratch").iterdir())


def test_blocks_that_share_keys_are_refused_with_the_reason(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "gemma3n_text",
        vocab_size=384,
        vocab_size_per_layer_input=384,
        hidden_size=32,
        hidden_size_per_layer_input=8,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_kv_shared_layers=2,
        laurel_rank=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        activation_sparsity_pattern=[0.0] * 4,
    )
    from transformers import AutoModel

    from prune2vec.backbone.stem import run_stem

    model = AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="later layers read keys and values of earlier ones; hold the whole model"):
        run_stem(model, list(model.layers), {"input_ids": torch.ones(1, 4, dtype=torch.long)})
    model.config.num_kv_shared_layers = 0
    with pytest.raises(UnsupportedModel, match="gemma3n_text cannot be streamed"):
        run_stem(model, list(model.layers), {"input_ids": torch.ones(1, 4, dtype=torch.long)})


def test_files_in_another_form_are_refused_with_the_tensor(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"num_hidden_layers": 5', '"num_hidden_layers": 6'))
    with pytest.raises(UnsupportedModel, match=r"has no tensor layers\.5\..*--stream off"):
        load_backbone(str(folder), dtype="float32", device="cpu", stream="on")
