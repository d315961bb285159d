"""A model read block by block computes what it computes in memory, holds two blocks at most, and leaves nothing behind."""

from __future__ import annotations

import gc
import json
import tempfile
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from prune2vec.errors import CheckpointError, ConfigError, ProfileError, UnsupportedModel
from prune2vec.forward import streaming as streamed_module
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.forward.block_inputs import block_inputs
from prune2vec.forward.memory_plan import MemoryPlan
from prune2vec.forward.runner import ObservedRun, Observer
from prune2vec.forward.streaming import FileStates
from prune2vec.models.block_files import BlockFiles
from prune2vec.models.families import block_list
from prune2vec.models.kept import Kept
from tests.forward.test_depths import pooled_depths, random_rows
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


def save_other(folder: Path, kind: str, **entries: Any) -> Path:
    """Write a random causal LM of a family that has no record."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=384, bos_token_id=1, eos_token_id=2, **entries)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def save_gptj(folder: Path) -> Path:
    return save_other(folder, "gptj", n_embd=32, n_layer=5, n_head=4, n_positions=256, rotary_dim=4, n_inner=48)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gptj"])
def test_equal_batches_are_equal_to_the_bit_in_bf16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    folder = save_gptj(tmp_path / "m") if family == "gptj" else save_tiny(tmp_path / "m", family)
    resident, streamed = both(folder, "bfloat16")
    monkeypatch.setattr("prune2vec.forward.runner.packing_obstacle", lambda *args, **options: "not wanted")
    one, two = (pooled_depths(it, random_rows(9), pooling="mean") for it in (streamed, resident))
    assert torch.equal(one, two)


@pytest.mark.parametrize("prefetch", [True, False])
@pytest.mark.parametrize("in_memory", [True, False])
def test_neither_prefetching_nor_the_place_of_the_states_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool, in_memory: bool
) -> None:
    resident, streamed = both(save_tiny(tmp_path / "m"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    room = MemoryPlan(prefetch=prefetch, token_budget=60, states_in_memory=in_memory)
    monkeypatch.setattr(streamed_module, "plan_memory", lambda **sizes: room)
    torch.testing.assert_close(vectors(streamed), vectors(resident), rtol=1e-5, atol=1e-5)
    assert streamed.stream is not None
    assert streamed.stream.stats[0].items() >= asdict(room).items()
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
    stats = streamed.stream.stats[0]
    ids = {token for row in random_rows(9) for token in row.ids} | {0}
    assert stats["blocks"] == 5
    assert stats["bytes_read"] == 5 * BLOCK_BYTES + len(ids) * 32 * 4
    assert stats["tokens"] == sum(len(row.ids) for row in random_rows(9))
    assert stats["seconds"] > stats["waiting_seconds"] > 0


# A width that no other test's model has: their tensors may be alive too.
OWN_WIDTH = 52


def save_of_own_width(folder: Path) -> str:
    """Write a tiny llama whose gate and up matrices have the shape (OWN_WIDTH, 32)."""
    tiny_model("llama", causal_lm=True, intermediate_size=OWN_WIDTH).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def live_matrices() -> int:
    """Return how many gate and up matrices have values; each block has one of both."""
    everything = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    alive = [tensor for tensor in everything if tensor.shape == (OWN_WIDTH, 32)]
    return len({tensor.untyped_storage().data_ptr() for tensor in alive if not tensor.is_meta})


class Counter(Observer):
    """Counts the block tensors that are alive whenever a block has run."""

    def __init__(self) -> None:
        self.most = 0

    def hooks(self, layer: int, block: torch.nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        return [block.register_forward_hook(lambda *args: self._count())]

    def _count(self) -> None:
        self.most = max(self.most, live_matrices())


@pytest.mark.parametrize("prefetch", [True, False])
def test_two_blocks_at_most_have_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefetch: bool) -> None:
    gc.collect()
    streamed = load_backbone(save_of_own_width(tmp_path / "m"), dtype="float32", device="cpu", stream="on")
    room = MemoryPlan(prefetch=prefetch, token_budget=1000, states_in_memory=True)
    monkeypatch.setattr(streamed_module, "plan_memory", lambda **sizes: room)
    counter = Counter()
    streamed.runner.run(random_rows(4), [ObservedRun(observers=[counter])], token_budget=1000)
    assert 2 <= counter.most <= (4 if prefetch else 2)
    assert all(parameter.is_meta for block in block_list(streamed.model, streamed.family) for parameter in block.parameters())


class Outputs(Observer):
    """Keeps what each block returns, by its number in the variant."""

    def __init__(self) -> None:
        self.seen: dict[int, list[torch.Tensor]] = {}

    def hooks(self, layer: int, block: torch.nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        def keep(module: torch.nn.Module, args: object, output: torch.Tensor) -> None:
            self.seen.setdefault(layer, []).append(output.clone())

        return [block.register_forward_hook(keep)]


@pytest.mark.parametrize(("family", "in_memory"), [("llama", True), ("gemma3_text", False), ("phi", True)])
def test_variants_go_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, in_memory: bool) -> None:
    room = MemoryPlan(prefetch=True, token_budget=90, states_in_memory=in_memory)
    monkeypatch.setattr(streamed_module, "plan_memory", lambda **sizes: room)
    resident, streamed = both(save_tiny(tmp_path / "m", family))
    monkeypatch.setattr("prune2vec.forward.runner.packing_obstacle", lambda *args, **options: "not wanted")
    variants = [
        None,
        Kept.of([0, 2, 4]),
        Kept.of(range(5), drop_attention=[1], drop_mlp=[2, 3]),
        Kept.whole(range(2)),
    ]
    found = []
    for backbone in (resident, streamed):
        observers = [Outputs() for _ in variants]
        runs = [ObservedRun(kept=kept, observers=[one]) for kept, one in zip(variants, observers, strict=True)]
        backbone.runner.run(random_rows(6), runs, token_budget=90)
        found.append(observers)
    for expected, other in zip(*found, strict=True):
        assert expected.seen.keys() == other.seen.keys()
        for layer, states in expected.seen.items():
            for one, two in zip(states, other.seen[layer], strict=True):
                torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    assert [len(one.seen) for one in found[1]] == [5, 3, 5, 2]
    assert streamed.stream is not None
    assert streamed.stream.stats[0]["blocks"] == 5


def test_a_layer_that_no_variant_keeps_is_not_read(tmp_path: Path) -> None:
    _, streamed = both(save_tiny(tmp_path / "m"))
    run = ObservedRun(kept=Kept.of([0, 1, 3]), observers=[Outputs()])
    streamed.runner.run(random_rows(3), [run], token_budget=90)
    assert streamed.stream is not None
    assert streamed.stream.stats[0]["blocks"] == 3


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
    room = MemoryPlan(prefetch=True, token_budget=60, states_in_memory=False)
    monkeypatch.setattr(streamed_module, "plan_memory", lambda **sizes: room)
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

    model = AutoModel.from_config(config).eval()
    with pytest.raises(UnsupportedModel, match="later layers read keys and values of earlier ones; hold the whole model"):
        block_inputs(model, list(model.layers), {"input_ids": torch.ones(1, 4, dtype=torch.long)})
    model.config.num_kv_shared_layers = 0
    with pytest.raises(UnsupportedModel, match="gemma3n_text cannot be streamed"):
        block_inputs(model, list(model.layers), {"input_ids": torch.ones(1, 4, dtype=torch.long)})


def test_files_in_another_form_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    stored = load_file(folder / "model.safetensors")
    halves = {stored.pop(f"model.layers.1.mlp.{name}_proj.weight") for name in ("gate", "up")}
    fused = {**stored, "model.layers.1.mlp.gate_up_proj.weight": torch.cat(list(halves))}
    save_file(fused, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"stores its tensors in another form .*--stream off"):
        load_backbone(str(folder), dtype="float32", device="cpu", stream="on")


def test_quantised_files_are_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    stored = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    # As FP8 checkpoints are stored: values in 8 bits, and a scale for each 128 x 128 of them.
    scaled = {**stored, name: stored[name].to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.full((1, 1), 0.5)}
    save_file(scaled, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"quantised \(it has .*_scale_inv beside the weights\).*convert it"):
        load_backbone(str(folder), dtype="float32", device="cpu", stream="on")
    entries = json.loads((folder / "config.json").read_text())
    quantised = {**entries, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (folder / "config.json").write_text(json.dumps(quantised))
    with pytest.raises(UnsupportedModel, match=r"is quantised, so its blocks cannot be read one by one.*--stream off"):
        load_backbone(str(folder), dtype="float32", device="cpu", stream="on")


def test_memory_for_one_block_tests_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, most, read, take = save_of_own_width(tmp_path / "m"), [0], list[str](), BlockFiles.take

    def watched_take(self: BlockFiles, name: str, **options: Any) -> torch.Tensor:
        tensor = take(self, name, **options)
        read.append(name)
        if tensor.shape == (OWN_WIDTH, 32):
            most[0] = max(most[0], live_matrices())
        return tensor

    monkeypatch.setattr(BlockFiles, "take", watched_take)
    monkeypatch.setattr(streamed_module, "memory_in_use", lambda device: 0)
    gc.collect()
    # One block and the 24 tokens of the tests take 112 kB, and a twentieth stays free.
    tight = load_backbone(folder, dtype="float32", device="cpu", stream="on", memory=140_000)
    assert most == [2]
    assert {name.split(".")[1] for name in read if name.startswith("layers.")} == {"0", "4"}
    with pytest.raises(ConfigError, match="memory is 140 kB, but the parts of blocks are tested on two blocks at once"):
        _ = tight.sub_layers
    with pytest.raises(ConfigError, match="memory is 110 kB, but one block and the longest text need"):
        load_backbone(folder, dtype="float32", device="cpu", stream="on", memory=110_000)
    read.clear()
    roomy = load_backbone(folder, dtype="float32", device="cpu", stream="on", memory=200_000)
    assert most == [4]
    for _ in range(3):
        _ = replace(roomy).sub_layers
    of_blocks = [name for name in read if name.startswith("layers.")]
    assert len(of_blocks) == len(set(of_blocks)) > 0


@pytest.mark.parametrize(("depth", "layers"), [(1, {"0"}), (3, {"0", "2"}), (9, {"0", "4"}), (None, {"0", "4"})])
def test_no_layer_beyond_the_depth_is_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, depth: int | None, layers: set[str]
) -> None:
    read, take = set(), BlockFiles.take

    def noted_take(self: BlockFiles, name: str, **options: Any) -> torch.Tensor:
        read.add(name)
        return take(self, name, **options)

    monkeypatch.setattr(BlockFiles, "take", noted_take)
    load_backbone(str(save_tiny(tmp_path / "m")), dtype="float32", device="cpu", stream="on", depth=depth)
    assert {name.split(".")[1] for name in read if name.startswith("layers.")} == layers


def test_all_batches_share_one_mask(tmp_path: Path) -> None:
    folder = save_other(
        tmp_path / "m",
        "gpt_neo",
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=256,
        attention_types=[[["global", "local"], 2]],
        window_size=16,
    )
    resident, streamed = both(folder)
    torch.testing.assert_close(vectors(streamed), vectors(resident), rtol=1e-5, atol=1e-5)
    resident.model.set_attn_implementation("eager")
    shared, held, masks = list[torch.Tensor](), dict[int, int](), 0
    for rows, width in ((8, 30), (9, 28), (20, 12)):
        inputs = {"input_ids": torch.ones(rows, width, dtype=torch.long)}
        _, calls = block_inputs(resident.model, list(block_list(resident.model, resident.family)), inputs, shared)
        given = [value for call in calls for value in (*call.args, *call.kwargs.values()) if isinstance(value, torch.Tensor)]
        for mask in given:
            if mask.shape == (rows, 1, width, width):
                masks += 1
                assert torch.equal(mask[rows - 1, 0] == 0, torch.ones(width, width).tril() == 1)
                held[mask.untyped_storage().data_ptr()] = mask.untyped_storage().nbytes()
    # Unshared, 8 * 30 * 30 + 9 * 28 * 28 + 20 * 12 * 12 values.
    assert masks == 3 * 4
    assert list(held.values()) == [30 * 30 * 4]


def test_a_folder_that_takes_no_states_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=rf"cannot write {tmp_path / 'gone'}"):
        FileStates([(1, 2)], dtype=torch.float32, device=torch.device("cpu"))


def test_states_in_a_file_have_places_of_their_own() -> None:
    shapes = [(2, 3), (1, 4), (3, 1)]
    kept = [torch.randn(shape) for shape in shapes]
    with closing(FileStates(shapes, dtype=torch.float32, device=torch.device("cpu"))) as states:
        for number in (2, 0, 1):
            states.put(number, kept[number])
        assert all(torch.equal(states.get(number), tensor) for number, tensor in enumerate(kept))
