"""Running out of memory or space is one line; other faults keep their own words."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from prune2vec.errors import CheckpointError, TrainingError
from prune2vec.training.failures import explained_failures


@pytest.mark.parametrize(
    ("fault", "expected", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), TrainingError, "out of GPU memory; set gradient_checkpointing"),
        (OSError(errno.ENOSPC, "No space left on device"), CheckpointError, "No space left on device; free some space"),
        (
            RuntimeError("[enforce fail] PytorchStreamWriter failed writing file"),
            CheckpointError,
            "free some space and run again",
        ),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes do not match"),
    ],
)
def test_faults_are_explained(tmp_path: Path, fault: Exception, expected: type[Exception], words: str) -> None:
    with pytest.raises(expected, match=words), explained_failures(tmp_path):
        raise fault


def test_a_real_refusal_to_allocate_is_explained(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^out of memory; .*batch_size"), explained_failures(tmp_path):
        torch.empty(2**60, dtype=torch.uint8)


def test_a_real_full_disk_is_explained(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with pytest.raises(CheckpointError, match="free some space"), explained_failures(tmp_path):
        torch.save({"weights": torch.zeros(1 << 20)}, "/dev/full")
