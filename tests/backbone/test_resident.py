"""A model in memory keeps to the memory that may be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune2vec.backbone import resident
from prune2vec.backbone.load import load_backbone
from prune2vec.backbone.passes import Batch, Look, Watcher
from prune2vec.backbone.room import bytes_per_token, largest_block
from prune2vec.errors import ConfigError
from tests.backbone.test_depths import random_rows
from tests.tiny import save_tiny


class Widths(Watcher):
    """Notes the size of every batch."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def hooks(self, layer: int, block: object) -> list[object]:  # type: ignore[override]
        return []

    def begin(self, batch: Batch) -> None:
        self.tokens.append(batch.attended.numel())


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
