"""Memory that runs out while a model is loaded is told as that, with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prune2vec.errors import ConfigError, ModelError
from prune2vec.forward import backbone
from prune2vec.forward.backbone import load_backbone
from tests.tiny import save_tiny


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory_is_no_fault_of_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(backbone, "self_test", fail)
    with pytest.raises(ConfigError, match=r"does not fit into memory .*--stream on, a smaller dtype") as caught:
        load_backbone(str(save_tiny(tmp_path / "m")), dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)


def test_another_error_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(backbone, "self_test", fail)
    with pytest.raises(ModelError, match=r"the model of its config.json does not run: shapes differ"):
        load_backbone(str(save_tiny(tmp_path / "m")), dtype="float32", device="cpu")
