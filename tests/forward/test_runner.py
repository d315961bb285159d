"""A model in memory keeps to the memory that may be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from prune2vec.errors import ConfigError, ProfileError
from prune2vec.forward import runner as resident
from prune2vec.forward.backbone import PooledDepths, load_backbone
from prune2vec.forward.batches import Batch
from prune2vec.forward.memory_plan import bytes_per_token
from prune2vec.forward.runner import ObservedRun, Observer
from prune2vec.models.tokens import TokenRow, length_batches
from prune2vec.profiling.redundancy import SublayerImportance
from tests.forward.test_depths import random_rows, tiny_backbone
from tests.tiny import save_tiny


class Widths(Observer):
    """Notes the size of every batch, and whether it has padding."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.packed: list[bool] = []

    def hooks(self, layer: int, block: object) -> list[object]:  # type: ignore[override]
        return []

    def begin(self, batch: Batch) -> None:
        self.tokens.append(batch.inputs["input_ids"].numel())
        self.packed.append(batch.packed)


def test_batches_shrink_to_the_memory_and_too_little_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = str(save_tiny(tmp_path / "m")), random_rows(9)
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    per_token = bytes_per_token(backbone.model, backbone.family)
    longest = max(len(row.ids) for row in rows)
    monkeypatch.setattr(resident, "memory_in_use", lambda device: 1_000_000)
    for spare, fits in ((-1, False), (0, True), (per_token * 20, True)):
        limited = load_backbone(folder, dtype="float32", device="cpu", memory=1_000_000 + per_token * longest + spare)
        seen, calls = Widths(), []
        limited.model.register_forward_hook(lambda module, args, output, calls=calls: calls.append(module))
        if fits:
            limited.runner.run(rows, [ObservedRun(observers=[seen])], token_budget=10_000)
            assert longest <= max(seen.tokens) <= longest + spare // per_token
        else:
            with pytest.raises(ConfigError, match=r"model is in memory already and the longest text needs .*or --stream on"):
                limited.runner.run(rows, [ObservedRun(observers=[seen])], token_budget=10_000)
            assert not calls


@pytest.mark.parametrize(
    ("family", "packed"),
    [("llama", True), ("gemma3_text", True), ("gemma2", False)],
)
def test_rows_are_laid_end_to_end_where_attention_can_be_told(tmp_path: Path, family: str, packed: bool) -> None:
    backbone, rows, seen = tiny_backbone(tmp_path, family), random_rows(9), Widths()
    backbone.runner.run(rows, [ObservedRun(observers=[seen])], token_budget=100)
    lengths = [len(row.ids) for row in rows]
    assert seen.packed == [packed] * len(length_batches(lengths, token_budget=100, packed=packed))
    assert (sum(seen.tokens) == sum(lengths)) == packed
    assert backbone.model.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")


def test_a_model_is_asked_once_for_each_length_whether_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, asked = tiny_backbone(tmp_path, "llama"), []

    def obstacle(model: object, max_length: int, room: int | None) -> str:
        asked.append((max_length, room))
        return "too long" if max_length == 3 else ""

    monkeypatch.setattr(resident, "packing_obstacle", obstacle)
    short, long = [TokenRow((3, 4), 0), TokenRow((3,), 0)], [TokenRow((3, 4, 5), 0), TokenRow((3,), 0)]
    packed = []
    for rows in (short, short, long, short[:1], long):
        backbone.runner.run(rows, [ObservedRun(observers=[seen := Widths()])])
        packed += seen.packed
    assert asked == [(2, None), (3, None)]
    assert packed == [True, True, False, False, False]
    assert backbone.runner.account() == {"packing": {"packed": False, "obstacle": "too long"}}


def test_what_a_run_frees_is_there_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, in_use = tiny_backbone(tmp_path, "llama"), iter([1_000_000, 9_000_000])
    monkeypatch.setattr(resident, "memory_in_use", lambda device: next(in_use))
    limited = replace(backbone, memory=2_000_000)
    for count in (3, 9):
        limited.runner.run(random_rows(count), [ObservedRun(observers=[Widths()])])


def test_a_fault_in_one_text_is_told_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    backbone, rows = tiny_backbone(tmp_path, "llama"), [TokenRow((3, 4), 0), TokenRow((5, 6, 7), 1)]
    backbone.model.embed_tokens.weight.data[6] = float("nan")
    observers = [PooledDepths(backbone, "mean", lambda *args: None), SublayerImportance(backbone, rows)]
    for observer, message in zip(
        observers, ("depth 1 of 5 in float32 for the text", "layer 0 after the attention in"), strict=True
    ):
        with pytest.raises(ProfileError, match=message):
            backbone.runner.run(rows, [ObservedRun(observers=[observer])])
    assert backbone.runner.account() == {"packing": {"packed": True, "obstacle": None}}
    assert backbone.model.config._attn_implementation == "sdpa"
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.model.modules())
