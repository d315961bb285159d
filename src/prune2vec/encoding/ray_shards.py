"""The shards of a corpus as tasks of a Ray cluster: Ray places and retries them, and each resumes after its last whole part."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode import EncodeResult, encode_corpus
from prune2vec.encoding.encode_settings import MOST_SHARDS, EncodeSettings
from prune2vec.encoding.store import check_shards, shard_counts
from prune2vec.errors import ConfigError, EncodingError, Prune2vecError, import_extra, reason_of
from prune2vec.machine import keep_freed_memory
from prune2vec.progress import say, set_enabled
from prune2vec.public import public


@public("encode", "encoder", "corpus", "output", settings=EncodeSettings)
def encode_on_ray(
    encoder: Path | str,
    corpus: Path | str,
    output: Path | str,
    *,
    shards: int | str = "auto",
    retries: int = 3,
    settings: EncodeSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> EncodeResult:
    """Encode a corpus in shards, each a task of a Ray cluster.

    A running cluster is joined when ``RAY_ADDRESS`` names one or Ray is initialised in this process; else a Ray of its own
    runs on this machine for as long as it takes. All machines need the same paths for the encoder, the corpus and the output.

    Args:
        encoder: As for ``encode_corpus``, as are corpus, settings and overrides.
        output: Folder to write; every shard has its own folder in it.
        shards: How many; auto takes as many as ``output`` has, else one a GPU, or one every four CPUs where there is none.
        retries: How often a shard is started again when its worker dies; it resumes after its last whole part.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: A setting does not fit, a single shard is asked for as well, or another run writes into a shard.
        EncodingError: No cluster answers, a worker died more often than ``retries``, or as from ``encode_corpus``. The
            other shards are stopped then.
        DataError: The corpus cannot be read.
    """
    chosen = EncodeSettings.chosen(settings, overrides, where="encode")
    if chosen.shard_of != (0, 1):
        raise ConfigError(f"shard {chosen.shard} together with Ray: Ray makes all shards; leave one of the two out")
    Corpus(path=Path(corpus), text_column=chosen.text_column, id_column=chosen.id_column).check_filled()
    wanted = wanted_shards(shards, Path(output))
    # Ray reports its use to its makers unless told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = import_extra("ray")
    own = not ray.is_initialized()
    if own:
        _start(ray)
    tasks: list[Any] = []
    try:
        count, resources = shards_and_resources([one["Resources"] for one in ray.nodes() if one["Alive"]], wanted)
        say(f"encoding {count} shards on Ray")
        name = Path(encoder).resolve() if Path(encoder).is_dir() else encoder
        task = ray.remote(max_retries=retries, **resources)(_encode_shard)
        work = (str(name), str(Path(corpus).resolve()), str(Path(output).resolve()), chosen)
        tasks += [task.remote(*work, f"{shard}/{count}") for shard in range(count)]
        done: list[EncodeResult] = ray.get(tasks)
        sums = {key: sum(getattr(shard, key) for shard in done) for key in ("rows", "encoded", "parts")}
        return replace(done[0], folder=Path(output), shards=tuple(done), **sums)
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


def _encode_shard(encoder: str, corpus: str, output: str, settings: EncodeSettings, shard: str) -> EncodeResult:
    # The worker is a process of its own, and the driver says what is being done.
    keep_freed_memory()
    set_enabled(False)
    return encode_corpus(encoder, corpus, output, settings=settings, shard=shard)


def wanted_shards(shards: int | str, output: Path) -> int | str:
    """Return the number of shards, as asked or as they are there; auto is left where there are none."""
    if shards == "auto":
        return next(iter(shard_counts(output)), "auto")
    if not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise ConfigError(f"{shards!r} shards: expected a number from 1 to {MOST_SHARDS:,}, or auto")
    check_shards(output, shards)
    return shards


def shards_and_resources(machines: Sequence[Mapping[str, float]], shards: int | str) -> tuple[int, dict[str, int]]:
    """Return the number of shards, and what each asks of ``machines`` (``{"CPU": 8.0, "GPU": 1.0}``): a GPU, or CPUs."""
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    cpus = [int(machine["CPU"]) for machine in machines if machine.get("CPU", 0) >= 1] or [1]
    count = int(shards) if shards != "auto" else gpus or max(1, sum(cpus) // 4)
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
