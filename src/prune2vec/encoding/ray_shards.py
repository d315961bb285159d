"""The shards of a corpus as tasks of a Ray cluster; each resumes after its last whole part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode import EncodeResult, encode_corpus
from prune2vec.encoding.encode_settings import MOST_SHARDS, EncodeSettings
from prune2vec.encoding.store import check_shards, shard_counts
from prune2vec.errors import ConfigError
from prune2vec.machine import keep_freed_memory
from prune2vec.progress import set_enabled
from prune2vec.public import public
from prune2vec.ray_tasks import on_ray


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
    name = Path(encoder).resolve() if Path(encoder).is_dir() else encoder
    work = (str(name), str(Path(corpus).resolve()), str(Path(output).resolve()), chosen)
    done = on_ray(_encode_shard, *work, shards=wanted, retries=retries)
    sums = {key: sum(getattr(shard, key) for shard in done) for key in ("rows", "encoded", "parts")}
    return replace(done[0], folder=Path(output), shards=tuple(done), **sums)


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
