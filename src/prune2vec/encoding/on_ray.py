"""The shards of a corpus as tasks of a Ray cluster: Ray places and retries them, and each goes on after its last whole part."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.encoding.allocator import keep_freed_memory
from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.job import EncodeResult, encode_corpus
from prune2vec.encoding.settings import EncodeSettings
from prune2vec.encoding.store import MANIFEST, Store, shard_folder
from prune2vec.errors import ConfigError, DataError, EncodingError, MissingExtra, Prune2vecError
from prune2vec.progress import progress, set_enabled

_CPUS_A_SHARD = 4
_LOOK_EVERY_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ShardsResult:
    """What an encoding in shards came to.

    Attributes:
        folder: Where the shards' folders are.
        shards: The result of each, in order.
    """

    folder: Path
    shards: Sequence[EncodeResult]

    @property
    def rows(self) -> int:
        """Vectors in all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def encoded(self) -> int:
        """Vectors that this call encoded; the others were there, or a task that died had written them."""
        return sum(shard.encoded for shard in self.shards)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        shards = [shard.to_json() for shard in self.shards]
        return {"folder": str(self.folder), "rows": self.rows, "encoded": self.encoded, "shards": shards}

    def render(self) -> str:
        """Return one line for people."""
        one = self.shards[0]
        parts = sum(shard.parts for shard in self.shards)
        return (
            f"{self.folder}: {self.rows:,} vectors of {one.dimension} dimensions "
            f"in {len(self.shards)} shards, {parts} parts, {one.precision}"
        )


@dataclass(frozen=True, kw_only=True)
class ShardEncoder:
    """Encodes one shard; can be pickled, so that Ray tasks, Ray Data or any other pool can call it.

    Attributes:
        encoder: Folder of an encoder, or a hub id; the same on every machine.
        corpus: The corpus file; the same on every machine.
        output: Folder of all shards; every machine writes there.
        settings: How.
    """

    encoder: str
    corpus: str
    output: str
    settings: EncodeSettings

    def __call__(self, shard: str) -> EncodeResult:
        """Encode what is not there yet of shard ``"i/n"``."""
        set_enabled(False)
        return encode_corpus(self.encoder, self.corpus, self.output, settings=self.settings, shard=shard)


def encode_on_ray(
    encoder: Path | str,
    corpus: Path | str,
    output: Path | str,
    *,
    shards: int | str = "auto",
    retries: int = 3,
    settings: EncodeSettings | None = None,
    **overrides: Any,
) -> ShardsResult:
    """Encode a corpus in shards, each a task of a Ray cluster.

    A running cluster is joined when ``RAY_ADDRESS`` names one or Ray is initialised in this process; else Ray runs on this
    machine. All machines need the same paths for the encoder, the corpus and the output.

    Args:
        encoder: Folder of an encoder, or a sentence-transformers hub id.
        corpus: The corpus file.
        output: Folder to write; every shard has its own folder in it.
        shards: How many; auto makes one a GPU, or one every four CPUs where there is no GPU.
        retries: How often a shard is started again when its worker dies; it goes on after its last whole part.
        settings: How.
        **overrides: Single settings, over ``settings``.

    Raises:
        MissingExtra: Ray is not installed.
        ConfigError: A setting does not fit, or a single shard is asked for as well.
        EncodingError: A worker died more often than ``retries``, or as from ``encode_corpus``.
        DataError: The corpus cannot be read.
    """
    given = settings.model_dump(exclude_unset=True) if settings is not None else {}
    chosen = EncodeSettings.build({**given, **overrides}, where="encode")
    if chosen.shard_of != (0, 1):
        raise ConfigError(f"shard {chosen.shard} together with Ray: Ray makes all shards; leave one of the two out")
    source = Corpus(path=Path(corpus).resolve(), text_column=chosen.text_column, id_column=chosen.id_column)
    source.opened().close()
    ray = _load_ray()
    own = not ray.is_initialized()
    if own:
        _start(ray)
    try:
        count, resources = _share(ray.cluster_resources(), shards)
        name = str(Path(encoder).resolve()) if Path(encoder).is_dir() else str(encoder)
        work = ShardEncoder(encoder=name, corpus=str(source.path), output=str(Path(output).resolve()), settings=chosen)
        task = ray.remote(max_retries=retries, **resources)(_encode_shard)
        results = _collected(ray, {task.remote(work, f"{shard}/{count}"): shard for shard in range(count)}, work, source)
    finally:
        if own:
            ray.shutdown()
    return ShardsResult(folder=Path(output), shards=results)


def _encode_shard(work: ShardEncoder, shard: str) -> EncodeResult:
    keep_freed_memory()  # The worker is a process of its own.
    return work(shard)


def _load_ray() -> Any:
    # Ray reports its use to its makers unless told not to before it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingExtra("encoding on Ray needs ray; install it with: pip install 'prune2vec[ray]'") from error
    return ray


def _start(ray: Any) -> None:
    try:
        # A cluster that is joined has its dashboard or not already.
        local = {} if os.environ.get("RAY_ADDRESS") else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise EncodingError(f"Ray does not start: {str(error).strip().splitlines()[0]}; look at RAY_ADDRESS") from error


def _share(cluster: dict[str, float], shards: int | str) -> tuple[int, dict[str, float]]:
    """Return the number of shards, and what each needs so that Ray runs as many at a time as the cluster can hold."""
    gpus, cpus = int(cluster.get("GPU", 0)), int(cluster.get("CPU", 1))
    count = int(shards) if shards != "auto" else gpus or max(1, cpus // _CPUS_A_SHARD)
    at_once = min(count, gpus or cpus)
    # Ray sets a task's number of threads to its CPUs.
    resources: dict[str, float] = {"num_cpus": max(1, cpus // max(1, at_once))}
    return count, {**resources, "num_gpus": 1} if gpus else resources


def _collected(ray: Any, running: dict[Any, int], work: ShardEncoder, source: Corpus) -> list[EncodeResult]:
    """Wait for all shards; progress is read from their manifests."""
    count = len(running)
    done: dict[int, EncodeResult] = {}
    seen = _written(work.output, count)
    with progress("encoding", source.estimate(), done=seen) as advance:
        while running:
            finished, _ = ray.wait(list(running), timeout=_LOOK_EVERY_S)
            for task in finished:
                shard = running.pop(task)
                done[shard] = _result(ray, task, f"{shard}/{count}")
            now = _written(work.output, count)
            advance(now - seen)
            seen = now
    return [done[shard] for shard in sorted(done)]


def _result(ray: Any, task: Any, shard: str) -> EncodeResult:
    try:
        result: EncodeResult = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Prune2vecError):
            raise error.cause from None
        raise EncodingError(f"shard {shard} failed: {' '.join(str(error.cause).split())[:300]}") from error
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:200]
        raise EncodingError(
            f"shard {shard}: its worker died again and again ({reason}); the same command goes on where it stopped"
        ) from error
    return result


def _written(output: str, shards: int) -> int:
    folders = [shard_folder(Path(output), shard, shards) for shard in range(shards)]
    return sum(_rows(folder) for folder in folders if (folder / MANIFEST).exists())


def _rows(folder: Path) -> int:
    try:
        return Store.load(folder).rows
    except (DataError, EncodingError):
        # What is wrong with it is for the task to say.
        return 0
