"""The shards of a corpus as tasks of a Ray cluster: Ray places and retries them, and each goes on after its last whole part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode import EncodeResult, encode_corpus
from prune2vec.encoding.encode_settings import EncodeSettings
from prune2vec.encoding.ray_cluster import load_ray, share, start
from prune2vec.encoding.resume import check_shards
from prune2vec.encoding.store import MANIFEST, Store, shard_counts, shard_folder
from prune2vec.errors import ConfigError, DataError, EncodingError, Prune2vecError, reason_of
from prune2vec.malloc import keep_freed_memory
from prune2vec.progress import progress, set_enabled
from prune2vec.public import public

_LOOK_EVERY_S = 2.0
_END_S = 10.0


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
        return encode_corpus(self.encoder, self.corpus, self.output, settings=self.settings, shard=shard)


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
) -> ShardsResult:
    """Encode a corpus in shards, each a task of a Ray cluster.

    A running cluster is joined when ``RAY_ADDRESS`` names one or Ray is initialised in this process; else a Ray of its own
    runs on this machine for as long as it takes. All machines need the same paths for the encoder, the corpus and the output.

    Args:
        encoder: Folder of an encoder, or a sentence-transformers hub id.
        corpus: The corpus file.
        output: Folder to write; every shard has its own folder in it.
        shards: How many; auto takes as many as ``output`` has, else one a GPU, or one every four CPUs where there is none.
        retries: How often a shard is started again when its worker dies; it goes on after its last whole part.
        settings: How.
        **overrides: Single settings, over ``settings``.

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
    source = Corpus(path=Path(corpus).resolve(), text_column=chosen.text_column, id_column=chosen.id_column)
    source.check_filled()
    wanted = _wanted(shards, Path(output))
    ray = load_ray()
    own = not ray.is_initialized()
    if own:
        start(ray)
    try:
        count, resources = share([node["Resources"] for node in ray.nodes() if node["Alive"]], wanted)
        name = str(Path(encoder).resolve()) if Path(encoder).is_dir() else str(encoder)
        work = ShardEncoder(encoder=name, corpus=str(source.path), output=str(Path(output).resolve()), settings=chosen)
        task = ray.remote(max_retries=retries, **resources)(_encode_shard)
        results = _collected(ray, {task.remote(work, f"{shard}/{count}"): shard for shard in range(count)}, work, source)
    finally:
        if own:
            ray.shutdown()
    return ShardsResult(folder=Path(output), shards=results)


def _encode_shard(work: ShardEncoder, shard: str) -> EncodeResult:
    # The worker is a process of its own, and the driver shows how far all shards are.
    keep_freed_memory()
    set_enabled(False)
    return work(shard)


def _wanted(shards: int | str, output: Path) -> int | str:
    """Return the number of shards, as asked or as they are there; auto is left where there are none."""
    if shards == "auto":
        there = shard_counts(output)
        if not there:
            return "auto"
        shards = there[0]
    if not isinstance(shards, int) or shards < 1:
        raise ConfigError(f"{shards!r} shards: expected a number from 1, or auto")
    check_shards(output, shards)
    return shards


def _collected(ray: Any, running: dict[Any, int], work: ShardEncoder, source: Corpus) -> list[EncodeResult]:
    """Wait for all shards; progress is read from their manifests. Whatever ends the wait early ends all of them."""
    count = len(running)
    done: dict[int, EncodeResult] = {}
    seen = _written(work.output, count)
    try:
        with progress("encoding", source.estimate(), done=seen) as advance:
            while running:
                finished, _ = ray.wait(list(running), timeout=_LOOK_EVERY_S)
                for task in finished:
                    shard = running.pop(task)
                    done[shard] = _result(ray, task, f"{shard}/{count}")
                now = _written(work.output, count)
                advance(now - seen)
                seen = now
    except BaseException:
        _stop(ray, list(running))
        raise
    return [done[shard] for shard in sorted(done)]


def _stop(ray: Any, tasks: list[Any]) -> None:
    # A shard that went on would hold its folder against the next run of the command.
    for task in tasks:
        ray.cancel(task, force=True)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=_END_S)


def _result(ray: Any, task: Any, shard: str) -> EncodeResult:
    try:
        result: EncodeResult = ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Prune2vecError):
            raise error.cause from None
        raise EncodingError(f"shard {shard} failed: {reason_of(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise EncodingError(
            f"shard {shard}: Ray gave up on it ({reason_of(error)}); the same command goes on where it stopped"
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
