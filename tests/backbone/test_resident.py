"""A model in memory keeps to the memory that may be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.backbone import resident
from prune2vec.backbone.batches import Batch
from prune2vec.backbone.load import load_backbone
from prune2vec.backbone.padding import PaddingSide
from prune2vec.backbone.passes import Look, Watcher
from prune2vec.backbone.room import bytes_per_token, largest_block
from prune2vec.backbone.tokens import TokenRow, length_batches
from prune2vec.errors import ConfigError
from tests.backbone.test_depths import random_rows, tiny_backbone
from tests.tiny import save_tiny


class Widths(Watcher):
    """Notes the size of every batch, and whether it has padding."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.packed: list[bool] = []

    def hooks(self, layer: int, block: object) -> list[object]:  # type: ignore[override]
        return []

    def begin(self, batch: Batch) -> None:
        self.tokens.append(batch.inputs["input_ids"].numel())
        self.packed.append(bool(batch.runs))


def test_batches_shrink_to_the_memory_and_too_little_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rows = str(save_tiny(tmp_path / "m")), random_rows(9)
    backbone = load_backbone(folder, dtype="float32", device="cpu")
    per_token = bytes_per_token(largest_block(backbone.model, backbone.family), 32, 4)
    longest = max(len(row.ids) for row in rows)
    monkeypatch.setattr(resident, "memory_in_use", lambda device: 1_000_000)
    for spare, fits in ((-1, False), (0, True), (per_token * 20, True)):
        limited = load_backbone(folder, dtype="float32", device="cpu", memory=1_000_000 + per_token * longest + spare)
        seen = Widths()
        if fits:
            limited.passes.run(rows, [Look(watchers=[seen])], token_budget=10_000)
            assert longest <= max(seen.tokens) <= longest + spare // per_token
        else:
            with pytest.raises(ConfigError, match=r"model is in memory already and the longest text needs .*or --stream on"):
                limited.passes.run(rows, [Look(watchers=[seen])], token_budget=10_000)
            assert not seen.tokens


@pytest.mark.parametrize(
    ("family", "side", "packed"),
    [("llama", None, True), ("gemma3_text", None, True), ("llama", "right", False), ("gemma2", None, False)],
)
def test_rows_are_laid_end_to_end_where_attention_can_be_told(
    tmp_path: Path, family: str, side: PaddingSide | None, packed: bool
) -> None:
    backbone, rows, seen = tiny_backbone(tmp_path, family), random_rows(9), Widths()
    backbone.passes.run(rows, [Look(watchers=[seen])], token_budget=100, padding_side=side)
    lengths = [len(row.ids) for row in rows]
    assert seen.packed == [packed] * len(length_batches(lengths, token_budget=100, packed=packed))
    assert (sum(seen.tokens) == sum(lengths)) == packed
    assert backbone.model.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")


def test_a_model_is_asked_once_whether_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, asked = tiny_backbone(tmp_path, "llama"), []
    monkeypatch.setattr(resident, "packing_obstacle", lambda model, max_length: asked.append(max_length) or "")
    short, long = [TokenRow((3, 4), 0), TokenRow((3,), 0)], [TokenRow((3, 4, 5), 0), TokenRow((3,), 0)]
    for rows in (short, short, long, short[:1], long):
        backbone.passes.run(rows, [Look(watchers=[Widths()])])
    assert asked == [2, 3]
