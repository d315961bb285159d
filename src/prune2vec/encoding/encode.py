"""``encode``: a corpus of any size to vectors on disk, part by part; the same command resumes after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from prune2vec.data.documents import Document
from prune2vec.encoding.corpus import Corpus, document_bytes
from prune2vec.encoding.encode_settings import EncodeSettings
from prune2vec.encoding.engine import Engine, prompted_engine
from prune2vec.encoding.store import Precision, Store, check_shards, check_vector_folder, manifest_of, ranges_of, shard_folder
from prune2vec.errors import DataError, EncodingError
from prune2vec.files import digest_tree
from prune2vec.outputs import clear_all_partials, locked
from prune2vec.paths import check_outside
from prune2vec.progress import progress, say
from prune2vec.pruning.plain_encoder import AnyEncoder, load_to_encode
from prune2vec.public import public
from prune2vec.resume import differences

_CLIPPED = 0.01  # Share of numbers outside the ranges of int8 of which a user should know.


@dataclass(frozen=True, kw_only=True)
class EncodeResult:
    """What an encoding came to.

    Attributes:
        folder: Where the vectors are.
        rows: All of its vectors.
        encoded: Those that this call encoded; the others were there.
        parts: Number of files.
        dimension: Dimensions of a vector before it is packed.
        precision: As in ``EncodeSettings``.
        shards: The result of each shard where Ray made several; a task that died may have encoded more than its result says.
    """

    folder: Path
    rows: int
    encoded: int
    parts: int
    dimension: int
    precision: str
    shards: tuple[EncodeResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        own = {**vars(self), "folder": str(self.folder), "shards": [shard.to_json() for shard in self.shards]}
        return own if self.shards else {key: value for key, value in own.items() if key != "shards"}

    def render(self) -> str:
        """Return one line for people."""
        there = f", {self.rows - self.encoded:,} of them there before" if self.encoded < self.rows else ""
        files = f"{len(self.shards)} shards, {self.parts} parts" if self.shards else f"{self.parts} parts"
        return f"{self.folder}: {self.rows:,} vectors of {self.dimension} dimensions in {files}, {self.precision}{there}"


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

    A part is whole or not there; a killed run, started again with the same arguments, resumes after the last whole part.
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
    check_outside(output, encoder)
    shard, shards = chosen.shard_of
    check_shards(Path(output), shards)
    folder = shard_folder(Path(output), shard, shards)
    with locked(folder):
        check_vector_folder(folder)
        source = Corpus(path=Path(corpus), text_column=chosen.text_column, id_column=chosen.id_column)
        source.check_filled()
        loaded = load_to_encode(str(encoder), device=chosen.device, dtype=chosen.dtype)
        return encode_with(loaded, encoder, source, folder, chosen)


def encode_with(
    loaded: AnyEncoder, encoder: Path | str, source: Corpus, folder: Path, settings: EncodeSettings
) -> EncodeResult:
    """Encode as ``encode_corpus`` does, with an encoder in memory, into a folder that is held: one store, all checks made."""
    how = settings.model_dump(include={"prompt", "max_length", "dimensions", "token_budget"})
    engine = prompted_engine(loaded, **how)
    store = _opened(folder, encoder, engine, source, settings)
    before = store.rows
    if not store.complete:
        store = _filled(store, engine, source, settings)
    return EncodeResult(
        folder=folder,
        rows=store.rows,
        encoded=store.rows - before,
        parts=len(store.parts),
        dimension=store.precision.dimension,
        precision=store.precision.name,
    )


def _opened(folder: Path, encoder: Path | str, engine: Engine, source: Corpus, settings: EncodeSettings) -> Store:
    """Return the store of an earlier run that is to be resumed, or a new one.

    An earlier one is only complete when the corpus is certainly the one it was; else its texts are to be compared with those of
    the finished parts (it has grown, was packed anew, was mended after its last good row, or was changed in between).
    """
    path, loaded = Path(encoder), engine.encoder
    head, size = source.head()
    identity = {
        "encoder": digest_tree(path) if path.is_dir() else str(encoder),
        "corpus": {"bytes": size, "head_sha256": hashlib.sha256(head).hexdigest()},
        "dtype": str(next(loaded.parameters()).dtype).removeprefix("torch."),
        "settings": settings.identity(),
    }
    made_by = {
        "encoder": str(path.resolve()) if path.is_dir() else str(encoder),
        # sentence-transformers cuts a vector to truncate_dim after its last module and leaves it shorter than 1.
        "normalised": engine.normalises and (settings.dimensions is not None or loaded.truncate_dim is None),
        "similarity": str(loaded.similarity_fn_name),
        "corpus_mtime_ns": source.path.stat().st_mtime_ns,
    }
    if manifest_of(folder).exists():
        store = Store.load(folder)
        # The corpus alone may grow.
        changed = differences(
            {key: value for key, value in store.identity.items() if key != "corpus"},
            {key: value for key, value in identity.items() if key != "corpus"},
        )
        if changed:
            raise EncodingError(f"{folder} holds vectors made otherwise ({changed}); give another output")
        same = store.identity.get("corpus") == identity["corpus"]
        same = same and store.made_by.get("corpus_mtime_ns") == made_by["corpus_mtime_ns"]
        now = replace(store, identity=identity, made_by=made_by, complete=store.complete and same)
        if now.complete and store.made_by != made_by:
            # The encoder lies elsewhere, where a search is to find it.
            now.save()
        return now
    ranges = None
    if settings.precision == "int8":
        # From the corpus's head whatever the shard, so that all shards have the same range.
        ranges = ranges_of(engine.encode([document.text for document in islice(source.documents(), settings.calibration)]))
    precision = Precision(name=settings.precision, dimension=engine.dimension, ranges=ranges)
    return Store(folder=folder, identity=identity, precision=precision, made_by=made_by)


def _filled(store: Store, engine: Engine, source: Corpus, settings: EncodeSettings) -> Store:
    """Encode what is not there yet; the next part is read and tokenised while one is computed.

    What is left of an encoding that fails is what the next call resumes from, and the error says where it is.
    """
    folder, there = store.folder, len(store.parts)
    new = not folder.is_dir()
    clear_all_partials(folder)
    parts = _prepared(store, engine, source, settings)
    share = 0.0
    numbers = outside = 0.0

    def advance_tokens(tokens: float) -> None:
        # Progress is counted in texts: a part's tokens are as many as its texts.
        advance(tokens * share)

    try:
        if not there:
            # It says that the parts to come are ours.
            store.save()
        total = source.estimate() / settings.shard_of[1]
        with progress("encoding", total, done=store.rows) as advance, ThreadPoolExecutor(1) as ahead:
            waiting = ahead.submit(next, parts, None)
            while (part := waiting.result()) is not None:
                waiting = ahead.submit(next, parts, None)
                documents, rows, digest = part
                share = len(rows) / max(1, sum(map(len, rows)))
                vectors = engine.encode_rows(rows, advance=advance_tokens)
                numbers += vectors.size
                outside += vectors.size * store.precision.outside(vectors)
                store = store.add([document.id for document in documents], vectors, source=digest)
        if outside > _CLIPPED * numbers:
            say(
                f"{folder}: {outside / numbers:.1%} of the numbers lie outside the ranges of the texts that these are from, and are stored "
                "as their ends, by which search loses; encode anew with more texts to calibration, or with precision float16"
            )
        return store.finish()
    except BaseException as error:
        # Whatever is wrong with the folder now must not hide the error.
        with suppress(OSError, DataError, EncodingError):
            kept = len(Store.load(folder).parts) if manifest_of(folder).exists() else 0
            if kept > there:
                error.add_note(f"{folder} keeps {kept} parts, after which the same command resumes")
            elif not kept:
                # A part that the manifest does not name yet would make the folder something else's.
                (folder / "part-00000.parquet").unlink(missing_ok=True)
                manifest_of(folder).unlink(missing_ok=True)
                if new:
                    folder.rmdir()
        raise


def _prepared(
    store: Store, engine: Engine, source: Corpus, settings: EncodeSettings
) -> Iterator[tuple[Sequence[Document], list[list[int]], str]]:
    """Yield the documents, token ids and digest of each part to come, after the finished parts' texts were found the same."""
    shard, shards = settings.shard_of
    documents = islice(source.documents(), shard, None, shards)
    before = 0
    for part in store.parts:
        rows = int(part["rows"])
        if _digest(islice(documents, rows)) != part.get("source_sha256"):
            raise EncodingError(
                f"{store.folder} holds vectors made with another corpus: its texts {before + 1:,} to {before + rows:,} "
                "have changed; give another output"
            )
        before += rows
    while chosen := list(islice(documents, settings.part_rows)):
        yield chosen, engine.tokenise([document.text for document in chosen]), _digest(chosen)


def _digest(documents: Iterable[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(document_bytes(document))
    return digest.hexdigest()
