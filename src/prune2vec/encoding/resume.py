"""What an output folder holds when an encoding begins: vectors to go on with, what a kill left, or something else's files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize

from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode_settings import EncodeSettings
from prune2vec.encoding.store import MANIFEST, Store, mixed_shards, shard_counts
from prune2vec.errors import EncodingError
from prune2vec.files import digest_tree

_HEAD_BYTES = 1 << 20
_HALF_WRITTEN = re.compile(r"\.part-\d+\.parquet\.partial|\.manifest\.json\.partial-\d+")


def check_shards(output: Path, shards: int) -> None:
    """Refuse another number of shards than ``output`` has: every text would be encoded again, beside the vectors there.

    Raises:
        EncodingError: It holds another number of shards, or a store of all vectors where shards are wanted.
    """
    there = shard_counts(output)
    if not there or there == [shards]:
        return
    if len(there) > 1:
        raise mixed_shards(output, there)
    if there == [1]:
        raise EncodingError(f"{output} holds vectors in one piece; leave --shard and --ray out, or give another output")
    raise EncodingError(f"{output} holds {there[0]} shards; give --ray {there[0]} or --shard i/{there[0]}, or another output")


def check_ours(folder: Path) -> None:
    """Refuse a folder without a manifest of vectors that is not empty.

    Raises:
        EncodingError: Something else is in it.
    """
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return
    # The manifest is written before the first part, so only its own write can have been broken off.
    if not all(_HALF_WRITTEN.fullmatch(path.name) for path in folder.iterdir()):
        raise EncodingError(f"{folder} is not empty and holds no vectors; give another output")


@contextmanager
def tidied(folder: Path) -> Iterator[None]:
    """Leave of an encoding that fails what the next call goes on from, and say where it is; only for who holds the folder."""
    before = _parts(folder)
    try:
        yield
    except BaseException as error:
        _remove_half_written(folder)
        if (parts := _parts(folder)) > before:
            error.add_note(f"{folder} keeps {parts} parts, after which the same command goes on")
        elif not parts and folder.is_dir():
            (folder / MANIFEST).unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
    _remove_half_written(folder)


def _parts(folder: Path) -> int:
    return len(Store.load(folder).parts) if (folder / MANIFEST).exists() else 0


def _remove_half_written(folder: Path) -> None:
    for path in list(folder.glob(".*")):
        if _HALF_WRITTEN.fullmatch(path.name):
            path.unlink(missing_ok=True)


def identity_of(encoder: Path, source: Corpus, loaded: SentenceTransformer, settings: EncodeSettings) -> dict[str, Any]:
    """Return what decides which vectors are written; the corpus may grow, all else must stay.

    Raises:
        DataError: The corpus cannot be read.
    """
    with source.opened() as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
    return {
        "encoder": digest_tree(encoder) if encoder.is_dir() else str(encoder),
        "corpus": {"bytes": source.path.stat().st_size, "head_sha256": head},
        "dtype": str(next(loaded.parameters()).dtype).removeprefix("torch."),
        "settings": settings.identity(),
    }


def made_by(encoder: Path | str, source: Corpus, loaded: SentenceTransformer, settings: EncodeSettings) -> dict[str, Any]:
    """Return what a search needs to know of the encoder, and when the corpus was last changed."""
    path = Path(encoder)
    normalises = any(isinstance(module, Normalize) for module in loaded)
    return {
        "encoder": str(path.resolve()) if path.is_dir() else str(encoder),
        # sentence-transformers cuts a vector to truncate_dim after its last module and leaves it shorter than 1.
        "normalised": normalises and (settings.dimensions is not None or loaded.truncate_dim is None),
        "similarity": str(loaded.similarity_fn_name),
        "corpus_mtime_ns": source.path.stat().st_mtime_ns,
    }


def found(folder: Path, identity: Mapping[str, Any], made: Mapping[str, Any]) -> Store | None:
    """Return the store of an earlier run under this run's identity, or None.

    It is only complete when the corpus is certainly the one it was; else its texts are to be compared with those of the
    finished parts (it has grown, was packed anew, was mended after its last good row, or was changed in between).

    Raises:
        DataError: The manifest cannot be read.
        EncodingError: It is broken, or holds vectors made with another encoder, number format or setting.
    """
    if not (folder / MANIFEST).exists():
        return None
    store = Store.load(folder)
    changed = list(_differences(store.identity, identity))
    if changed:
        raise EncodingError(f"{folder} holds vectors made with another {' and '.join(changed)}; give another output")
    same = store.identity.get("corpus") == identity["corpus"]
    same = same and store.made_by.get("corpus_mtime_ns") == made["corpus_mtime_ns"]
    return replace(store, identity=identity, made_by=made, complete=store.complete and same)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before.get("encoder") != now["encoder"]:
        yield "encoder"
    flat = {**before.get("settings", {}), "dtype": before.get("dtype")}
    for name, value in {**now["settings"], "dtype": now["dtype"]}.items():
        if flat.get(name) != value:
            yield f"{name} ({flat.get(name)}, now {value})"
