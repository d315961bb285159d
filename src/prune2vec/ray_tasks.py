"""Shards of work as tasks of a Ray cluster, which places them and starts them again where a worker died."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from prune2vec.errors import EncodingError, Prune2vecError, import_extra, reason_of
from prune2vec.progress import say

T = TypeVar("T")


def on_ray(function: Callable[..., T], *work: Any, shards: int | str, retries: int, most: int = 10**6) -> list[T]:
    """Call ``function(*work, "i/n")`` for every shard, each a task of a Ray cluster, and return what they give in their order.

    Args:
        function: What does a shard; it goes on where an earlier call for the same shard was killed.
        work: Its other arguments.
        shards: How many; auto takes one a GPU, or one every four CPUs where there is none.
        retries: How often a shard is started again when its worker dies.
        most: So many at most where auto takes them.

    Raises:
        MissingExtra: Ray is not installed.
        EncodingError: No cluster answers, or a worker died more often than ``retries``. The other shards are stopped then.
        Prune2vecError: What a shard raises; likewise.
    """
    # Ray reports its use to its makers unless told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray")
    own = not ray.is_initialized()
    if own:
        _start(ray)
    tasks: list[Any] = []
    try:
        count, resources = shards_and_resources([one["Resources"] for one in ray.nodes() if one["Alive"]], shards, most)
        say(f"{count} shards on Ray")
        task = ray.remote(max_retries=retries, **resources)(function)
        tasks += [task.remote(*work, f"{shard}/{count}") for shard in range(count)]
        done: list[T] = ray.get(tasks)
        return done
    except BaseException as error:
        for running in tasks:
            # A shard that went on would hold its folder against the next run of the command.
            ray.cancel(running, force=True)
        cause = getattr(error, "cause", None)
        if isinstance(cause, Prune2vecError):
            raise cause from None
        if isinstance(error, ray.exceptions.RayError):
            raise EncodingError(
                f"Ray gave up on a shard ({reason_of(cause or error)}); the same command resumes where it stopped"
            ) from error
        raise
    finally:
        if own:
            ray.shutdown()


def shards_and_resources(
    machines: Sequence[Mapping[str, float]], shards: int | str, most: int = 10**6
) -> tuple[int, dict[str, int]]:
    """Return the number of shards, and what each asks of ``machines`` (``{"CPU": 8.0, "GPU": 1.0}``): a GPU, or CPUs."""
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    cpus = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
    count = int(shards) if shards != "auto" else min(most, gpus or max(1, sum(cpus) // 4))
    # Ray sets a task's number of threads to its CPUs, of which every machine must have as many.
    return count, {"num_gpus": 1} if gpus else {"num_cpus": max(1, min(min(cpus), sum(cpus) // count))}


def _start(ray: Any) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine when it names none."""
    address = os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            # Ray itself tries for a quarter of an hour.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EncodingError(f"no Ray cluster answers at {address} ({error}); look at RAY_ADDRESS") from error
    # Without an address Ray joins what "ray start" once left on this machine. A cluster has its dashboard or not already.
    how = {"address": "local", "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EncodingError(f"Ray does not start: {reason_of(error)}; look at RAY_ADDRESS") from error
