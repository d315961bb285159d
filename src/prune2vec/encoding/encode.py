"""``encode``: a corpus of any size to vectors on disk, in constant memory; the same command goes on after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from prune2vec.data.documents import Document
from prune2vec.encoding.corpus import Corpus
from prune2vec.encoding.encode_settings import EncodeSettings
from prune2vec.encoding.engine import Engine
from prune2vec.encoding.precision import Precision, ranges_of
from prune2vec.encoding.prompts import prompted_engine
from prune2vec.encoding.resume import check_ours, check_shards, found, identity_of, made_by, tidied
from prune2vec.encoding.store import Store, shard_folder
from prune2vec.errors import EncodingError
from prune2vec.outputs import locked
from prune2vec.progress import Advance, progress
from prune2vec.pruning.encoder import check_finite, load_encoder
from prune2vec.public import public

Prepared = tuple[Sequence[Document], list[list[int]], str]


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """What an encoding came to.

    Attributes:
        folder: Where the vectors of this shard are.
        rows: All of the shard's rows.
        encoded: Rows that this call encoded; the others were there.
        parts: Files.
        dimension: Dimensions of a vector before it is packed.
        precision: How they are stored.
    """

    folder: Path
    rows: int
    encoded: int
    parts: int
    dimension: int
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {**asdict(self), "folder": str(self.folder)}

    def render(self) -> str:
        """Return one line for people."""
        there = f", {self.rows - self.encoded:,} of them there before" if self.encoded < self.rows else ""
        return f"{self.folder}: {self.rows:,} vectors of {self.dimension} dimensions in {self.parts} parts, {self.precision}{there}"


@public("encode", "encoder", "corpus", "output", settings=EncodeSettings)
def encode_corpus(
    encoder: Path | str,
    corpus: Path | str,
    output: Path | str,
    *,
    settings: EncodeSettings | Mapping[str, Any] | None = None,
    **overrides: Any,
) -> EncodeResult:
    """Encode every text of a corpus and write Parquet parts of (id, vector).

    A part is whole or not there; a killed run, started again with the same arguments, goes on after the last whole part.
    So does a run on a corpus that has grown: only the new texts are encoded. Of a document that comes twice the first is taken.

    Args:
        encoder: Folder of an encoder, or a sentence-transformers hub id.
        corpus: ``.jsonl``, ``.csv``, ``.parquet`` or ``.txt`` (also ``.gz``).
        output: Folder to write.
        settings: How.
        **overrides: Single settings, over ``settings``.

    Raises:
        ConfigError: A setting is unknown or does not fit, or another run writes into the folder.
        DataError: The corpus cannot be read, holds nothing but blanks, or two documents have one id.
        EncodingError: The folder holds vectors of something else or another number of shards, or a vector is not finite.
        CheckpointError: The encoder cannot be loaded, or a part cannot be written.
    """
    chosen = EncodeSettings.chosen(settings, overrides, where="encode")
    shard, shards = chosen.shard_of
    if shard >= shards:
        raise EncodingError(f"shard {chosen.shard}: shards are numbered from 0 to {shards - 1}")
    check_shards(Path(output), shards)
    folder = shard_folder(Path(output), shard, shards)
    with locked(folder):
        return _encoded(encoder, corpus, folder, chosen)


def _encoded(encoder: Path | str, corpus: Path | str, folder: Path, chosen: EncodeSettings) -> EncodeResult:
    check_ours(folder)
    source = Corpus(path=Path(corpus), text_column=chosen.text_column, id_column=chosen.id_column)
    source.check_filled()
    loaded = load_encoder(encoder, device=chosen.device, dtype=chosen.dtype)
    check_finite(loaded, encoder)
    how = chosen.model_dump(include={"prompt", "max_length", "dimensions", "token_budget"})
    engine = prompted_engine(loaded, **how)
    identity, made = identity_of(Path(encoder), source, loaded, chosen), made_by(encoder, source, loaded, chosen)
    store = found(folder, identity, made)
    if store is None:
        store = _begun(folder, identity, made, engine=engine, source=source, settings=chosen)
    before = store.rows
    if not store.complete:
        with tidied(folder):
            if not store.parts:
                # It says that the parts to come are ours.
                store.save()
            store = _fill(store, engine, source, chosen)
    return EncodeResult(
        folder=folder,
        rows=store.rows,
        encoded=store.rows - before,
        parts=len(store.parts),
        dimension=store.precision.dimension,
        precision=store.precision.name,
    )


def _begun(
    folder: Path,
    identity: Mapping[str, Any],
    made: Mapping[str, Any],
    *,
    engine: Engine,
    source: Corpus,
    settings: EncodeSettings,
) -> Store:
    ranges = None
    if settings.precision == "int8":
        # From the corpus's head whatever the shard, so that all shards have the same range.
        head = [document.text for document in islice(source.documents(), settings.calibration)]
        ranges = ranges_of(engine.encode(head))
    precision = Precision(name=settings.precision, dimension=engine.dimension, ranges=ranges)
    return Store(folder=folder, identity=identity, precision=precision, made_by=made)


def _fill(store: Store, engine: Engine, source: Corpus, settings: EncodeSettings) -> Store:
    """Encode what is not there yet; the next part is read and tokenised while one is computed."""
    shard, shards = settings.shard_of
    mine = islice(source.documents(), shard, None, shards)
    total = source.estimate() / shards
    parts = chain(_passed_over(mine, store), _parts(mine, settings.part_rows))

    def prepared() -> Prepared | None:
        documents = next(parts, None)
        if documents is None:
            return None
        return documents, engine.tokenise([document.text for document in documents]), _digest(documents)

    with progress("encoding", total, done=store.rows) as advance, ThreadPoolExecutor(1) as ahead:
        waiting = ahead.submit(prepared)
        while (part := waiting.result()) is not None:
            waiting = ahead.submit(prepared)
            documents, rows, digest = part
            share = len(rows) / max(1, sum(map(len, rows)))
            vectors = engine.encode_rows(rows, advance=_scaled(advance, share))
            store = store.add([document.id for document in documents], vectors, source=digest)
    return store.finish()


def _passed_over(documents: Iterator[Document], store: Store) -> Iterator[Sequence[Document]]:
    """Read the texts of the finished parts, which must be those they were made from, and yield nothing."""
    before = 0
    for part in store.parts:
        rows = int(part["rows"])
        if _digest(list(islice(documents, rows))) != part.get("source_sha256"):
            raise EncodingError(
                f"{store.folder} holds vectors made with another corpus: its texts {before + 1:,} to {before + rows:,} "
                "have changed; give another output"
            )
        before += rows
    yield from ()


def document_bytes(document: Document) -> bytes:
    """Return what a document adds to the digest of its part, ``source_sha256`` in the manifest."""
    # Lengths, so that no text can pass for the end of one and the beginning of the next.
    return f"{len(document.id)} {len(document.text)} {document.id}{document.text}".encode()


def _digest(documents: Sequence[Document]) -> str:
    return hashlib.sha256(b"".join(map(document_bytes, documents))).hexdigest()


def _scaled(advance: Advance, factor: float) -> Advance:
    return lambda amount: advance(amount * factor)


def _parts(documents: Iterator[Document], size: int) -> Iterator[Sequence[Document]]:
    while part := list(islice(documents, size)):
        yield part
