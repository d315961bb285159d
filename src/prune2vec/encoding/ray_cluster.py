"""A Ray cluster: joined, or started on this machine, and what one shard may ask of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from prune2vec.errors import EncodingError, import_extra, reason_of

_CPUS_A_SHARD = 4
_ANSWER_S = 10.0


def load_ray() -> Any:
    """Return the module ``ray``.

    Raises:
        MissingExtra: It is not installed.
    """
    # Ray reports its use to its makers unless told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return import_extra("ray")


def start(ray: Any) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or start one on this machine when it names none.

    Raises:
        EncodingError: No cluster answers there, or Ray does not start.
    """
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check_answers(address)
    # Without an address Ray joins what "ray start" once left on this machine. A cluster has its dashboard or not already.
    how = {"address": "local", "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **how)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EncodingError(f"Ray does not start: {reason_of(error)}; look at RAY_ADDRESS") from error


def _check_answers(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():
        return
    # Ray itself tries for a quarter of an hour.
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise EncodingError(f"no Ray cluster answers at {address} ({error}); look at RAY_ADDRESS") from error


def share(nodes: Sequence[Mapping[str, float]], shards: int | str) -> tuple[int, dict[str, float]]:
    """Return the number of shards, and what each needs so that as many as can be run at a time, each inside one machine.

    Args:
        nodes: What each machine has, as ``{"CPU": 8.0, "GPU": 1.0}``.
        shards: How many, or auto.
    """
    cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
    count = int(shards) if shards != "auto" else sum(gpus) or max(1, sum(cpus) // _CPUS_A_SHARD)
    # Ray sets a task's number of threads to its CPUs.
    if any(gpus):
        return count, {"num_cpus": min(cpu // gpu for cpu, gpu in zip(cpus, gpus, strict=True) if gpu), "num_gpus": 1}
    at_once = max(1, min(count, sum(cpus)))
    fitting = (each for each in range(sum(cpus) // at_once, 0, -1) if sum(cpu // each for cpu in cpus) >= at_once)
    return count, {"num_cpus": next(fitting, 1)}
