"""The hidden states of all rows between two blocks: in memory, or in a file that no crash leaves behind."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from prune2vec.files import explained_os_errors


class States(Protocol):
    """Hidden states by number."""

    def get(self, number: int) -> Tensor:
        """Return one batch's states on the model's device."""
        ...

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        ...


class MemoryStates:
    """Hidden states in memory.

    Args:
        count: How many there are.
        place: Where they are kept.
        device: Where they are wanted.
    """

    def __init__(self, count: int, *, place: torch.device, device: torch.device) -> None:
        self._held: list[Tensor | None] = [None] * count
        self._place, self._device = place, device

    def get(self, number: int) -> Tensor:
        """Return one batch's states on the model's device; they are let go here, so that one copy is alive at most."""
        held = self._held[number]
        assert held is not None
        self._held[number] = None
        return held.to(self._device)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before."""
        self._held[number] = states.to(self._place)


class FileStates:
    """Hidden states in a temporary file without a name, which goes with the process however that ends.

    Args:
        shapes: Shape of each.
        dtype: Their number format.
        device: Where they are wanted.

    Raises:
        CheckpointError: The folder for temporary files cannot be written.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, dtype: torch.dtype, device: torch.device) -> None:
        self._shapes, self._dtype, self._device = shapes, dtype, device
        sizes = [torch.Size(shape).numel() * dtype.itemsize for shape in shapes]
        self._begins = list(accumulate(sizes, initial=0))[:-1]
        # Plain reads and writes: pages of a mapped file would count as memory of this process.
        with explained_os_errors(Path(tempfile.gettempdir())):
            self._file: Any = tempfile.TemporaryFile(prefix="prune2vec-states-", buffering=0)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def get(self, number: int) -> Tensor:
        """Return one batch's states on the model's device."""
        states = torch.empty(self._shapes[number], dtype=self._dtype)
        view = _bytes(states)
        self._file.seek(self._begins[number])
        while view:
            done = self._file.readinto(view)
            if not done:
                raise EOFError(f"the file of hidden states ends before batch {number}")
            view = view[done:]
        return states.to(self._device)

    def put(self, number: int, states: Tensor) -> None:
        """Keep them in the place of those before.

        Raises:
            CheckpointError: The disk is full.
        """
        view = _bytes(states.cpu().contiguous())
        with explained_os_errors(Path(tempfile.gettempdir())):
            self._file.seek(self._begins[number])
            while view:
                view = view[self._file.write(view) :]


def _bytes(states: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    found: Any = states.view(torch.uint8).flatten().numpy()
    return memoryview(found)
