"""Memory and disk that run out while training, in one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from prune2vec.errors import CheckpointError, TrainingError
from prune2vec.files import explained_os_errors

_LESS = "set gradient_checkpointing to on, lower batch_size or max_length, or use cached with a small mini_batch_size"
# How torch's archive writer says that the disk is full.
_CUT_SHORT = ("PytorchStreamWriter", "inline_container", "iostream error")


@contextmanager
def explained_failures(folder: Path) -> Iterator[None]:
    """Turn running out of memory, or of space in ``folder``, into one of our errors.

    Raises:
        TrainingError: There is not enough memory.
        CheckpointError: A checkpoint cannot be written.
    """
    with explained_os_errors(folder):
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"out of GPU memory; {_LESS}") from error
        except RuntimeError as error:
            # The CPU's allocator and torch.save have no error types of their own.
            if "can't allocate memory" in str(error):
                raise TrainingError(f"out of memory; {_LESS}") from error
            if any(mark in str(error) for mark in _CUT_SHORT):
                raise CheckpointError(
                    f"cannot write {folder}: a checkpoint was cut short; free some space and run again"
                ) from error
            raise
