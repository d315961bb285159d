"""Several processes that train one encoder together, as ``torchrun`` or ``accelerate launch`` started them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed

from prune2vec.errors import ConfigError, reason_of
from prune2vec.machine import pick_device
from prune2vec.progress import silenced
from prune2vec.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import PrefixStore

T = TypeVar("T")

# What one of them does alone may take hours, such as encoding with a teacher.
_PATIENCE = timedelta(days=30)
# A process that fails lets the first one speak, which knows more, if that fails as well.
_POLITE = timedelta(seconds=2)
_MEETING = timedelta(minutes=30)
_meetings = count()
_SAID = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a training; one, unless a launcher started several.

    Attributes:
        rank: Number of this one. The first, 0, alone writes files and speaks.
        number: How many there are.
    """

    rank: int = 0
    number: int = 1
    _store: PrefixStore | None = None
    _turns: Iterator[int] = field(default_factory=count)

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @contextmanager
    def after_first(self) -> Iterator[None]:
        """Let the others enter the block when the first has left it."""
        if self._store is None:
            yield
            return
        turn = f"turn {next(self._turns)}"
        if not self.first:
            self._store.wait([turn], _PATIENCE)
        yield
        if self.first:
            self._store.set(turn, "")

    def told(self, make: Callable[[], T]) -> T:
        """Return what ``make`` returns to the first, something for JSON; the others wait for it and do not call it."""
        if self._store is None:
            return make()
        made = make() if self.first else None
        key = f"told {next(self._turns)}"
        if self.first:
            self._store.set(key, json.dumps(made))
        self._store.wait([key], _PATIENCE)
        told: T = json.loads(self._store.get(key))
        return told

    def check_batch(self, rows: int) -> None:
        """Refuse a batch of so many rows that cannot be shared out evenly.

        Raises:
            ConfigError: It cannot.
        """
        if rows % self.number:
            raise ConfigError(
                f"batch_size {rows} is that of all {self.number} processes together and cannot be shared out evenly; "
                f"give a multiple of {self.number}"
            )


@contextmanager
def joined(settings: TrainSettings) -> Iterator[Processes]:
    """Join the other processes that a launcher started, if it did, and leave them at the end.

    Of an error in several of them, one process alone raises it; the others end with ``SystemExit``.

    Raises:
        ConfigError: The launcher did not say all that is needed, the device does not fit several processes, or one process sees several
            GPUs.
    """
    number = int(os.environ.get("WORLD_SIZE", "1"))
    if number == 1:
        check_one_gpu(settings.device)
        yield Processes()
        return
    missing = next((name for name in _SAID if name not in os.environ), None)
    if missing is not None:
        raise ConfigError(
            f"WORLD_SIZE says {number} processes, and {missing} is not set; start them with torchrun, or unset it"
        )
    # A torch can be built without them.
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    try:
        common, rank, _ = next(rendezvous("env://", timeout=_MEETING))
    except RuntimeError as error:
        raise ConfigError(f"the {number} processes do not find each other: {reason_of(error)}") from error
    store = PrefixStore(f"prune2vec {next(_meetings)}", common)
    processes = Processes(rank=rank, number=number, _store=store)
    own = False
    try:
        backend = _take_device(settings.device)
        own = not distributed.is_initialized()
        if own:
            group = PrefixStore("group", store)
            distributed.init_process_group(backend, store=group, rank=rank, world_size=number, timeout=_MEETING)
        if processes.first:
            yield processes
        else:
            with silenced():
                yield processes
    except BaseException as error:
        if not _speaks(processes, store):
            time.sleep(_POLITE.total_seconds())  # A launcher ends all when one ends: not before the one that tells why.
            raise SystemExit(1) from error
        raise
    if own:
        distributed.destroy_process_group()


def check_one_gpu(device: str) -> None:
    """Refuse to train in one process that sees several GPUs: the trainer would spread its batches over all of them.

    Raises:
        ConfigError: There are several, and the device is one of them.
    """
    found = pick_device(device)
    if found.type == "cuda" and (there := torch.cuda.device_count()) > 1:
        raise ConfigError(
            f"this machine has {there} GPUs, and a process trains on one; set CUDA_VISIBLE_DEVICES={found.index or 0} and device to cuda, "
            f"or let train use them all: torchrun --nproc-per-node {there} -m prune2vec train"
        )


def _take_device(device: str) -> str:
    """Take this process's device, and return the backend through which processes on such devices talk."""
    found = pick_device(device)
    if found.type != "cuda":
        if found.type != "cpu":
            raise ConfigError(
                f"several processes train on GPUs of NVIDIA or AMD, or on the CPU, not on {found}; use device cpu"
            )
        return "gloo"
    if ":" in device:
        raise ConfigError(f"several processes take one GPU each, all took {device}; set device to cuda")
    mine, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if mine >= there:
        raise ConfigError(f"this machine has {there} GPUs for its processes, too few for process {mine + 1}; start one a GPU")
    torch.cuda.set_device(mine)
    return "nccl"


def _speaks(processes: Processes, store: PrefixStore) -> bool:
    """Whether an error of this process is told by it: the first to fail; where several fail at once, the first of all."""
    try:
        if not processes.first:
            with suppress(distributed.DistStoreError):  # Nobody else has.
                store.wait(["failed"], _POLITE)
        return store.add("failed", 1) == 1
    except RuntimeError:
        return processes.first  # The store has gone with the process that held it, which had told its error.
