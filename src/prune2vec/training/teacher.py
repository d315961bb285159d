"""A teacher's vectors of the training texts: encoded once into Parquet, or taken from vectors that exist; never the model itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from prune2vec.data.documents import read_documents
from prune2vec.data.rows import id_text, read_rows, sound_text, suffix_of
from prune2vec.data.triplet import write_json_lines
from prune2vec.encoding.corpus import Corpus, document_bytes
from prune2vec.encoding.encode import encode_with
from prune2vec.encoding.encode_settings import EncodeSettings
from prune2vec.encoding.store import Store, check_vector_folder, manifest_of
from prune2vec.encoding.vector_folder import VectorFolder
from prune2vec.errors import ConfigError, DataError, did_you_mean, reason_of, shown
from prune2vec.files import digest_file, digest_json, digest_tree
from prune2vec.machine import release_memory
from prune2vec.models.prepared_text import saved_prompts
from prune2vec.outputs import TAUGHT, OwnFolder, locked
from prune2vec.progress import say
from prune2vec.pruning.encoder import check_finite, load_encoder
from prune2vec.training.train_settings import TrainSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_PART_ROWS = 1000  # What an interruption loses at most.
_VECTORS = ("vector", "embedding")
_IDS = ("_id", "id")
_FORMATS = (".parquet", ".jsonl", ".ndjson")
_SHOWN = 60


class TeacherPrompt(NamedTuple):
    """What a teacher gets before a text: a prompt of its own, by name, or in its place given words."""

    name: str
    words: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeacherVectors:
    """A teacher's vectors of the texts that a training gets to.

    Attributes:
        vectors: (row, dim), float32.
        rows: By prompt and text, the number of its row.
    """

    vectors: NDArray[np.float32]
    rows: Mapping[TeacherPrompt, Mapping[str, int]]

    def number(self, prompt: TeacherPrompt, text: str) -> int:
        """Return the number of a text's row; beyond the last one, where no vector is, for a text that the training does not get to."""
        return self.rows.get(prompt, {}).get(text, len(self.vectors))


class _Known(NamedTuple):
    """Vectors as they were found, (row, dim) float32, and the row of each text, or of each id where ``by_id``."""

    vectors: NDArray[np.float32]
    rows: Mapping[str, int]
    by_id: bool = False


def named_prompt(encoder: SentenceTransformer, name: str, *, whose: str) -> str:
    """Return what an encoder puts before a text under the prompt of a name; ``whose`` it is, for the message.

    Raises:
        ConfigError: It has no such prompt. For query, document and none every encoder has an answer.
    """
    query, document = saved_prompts(encoder.prompts, encoder.default_prompt_name)
    known = {**encoder.prompts, "query": query, "document": document, "none": ""}
    if name not in known:
        raise ConfigError(f"prompts: {whose} has no prompt {name!r}{did_you_mean(name, known)}")
    return known[name] or ""


def teacher_identity(settings: TrainSettings) -> str | None:
    """Return what the teacher's vectors depend on beside texts and settings: a digest of the encoder, or of given vectors."""
    if settings.teacher is not None:
        return digest_tree(Path(settings.teacher)) if Path(settings.teacher).is_dir() else settings.teacher
    if settings.teacher_vectors is None:
        return None
    place = Path(settings.teacher_vectors)
    return digest_tree(place) if place.is_dir() else digest_file(place)


def teacher_vectors(
    wanted: Mapping[TeacherPrompt, Mapping[str, str]],
    settings: TrainSettings,
    *,
    output: Path,
    texts: Sequence[str | Path] = (),
    dtype: str = "auto",
) -> TeacherVectors:
    """Return the teacher's vector of every text under every prompt.

    With a teacher, what is not there yet is encoded into ``teacher_vectors`` (by default a folder beside the output) by
    ``encode``: in parts, so that the same call resumes after a kill. Another run that makes them is waited for. Else the
    vectors there are taken, whoever made them.

    Args:
        wanted: By prompt the distinct texts, each with the id of its document or an empty one.
        settings: The teacher, or where its vectors are.
        output: The encoder's folder to be.
        texts: The sources of the texts where these are plain: vectors that ``encode`` made of one are known by its order.
        dtype: Of the teacher's forward passes.

    Raises:
        ConfigError: The teacher has no such prompt.
        DataError: Vectors that exist do not fit the texts: missing, of other texts, another number, not finite.
        CheckpointError: The teacher cannot be loaded.
        EncodingError: The teacher's vectors cannot be made, or are damaged.
    """
    if settings.teacher is not None:
        folder = Path(settings.teacher_vectors or output.with_name(f"{output.name}.teacher"))
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            # So that it is known for ours where it lies among the texts.
            OwnFolder(folder, TAUGHT, {}).save()
        found = _encoded(settings.teacher, folder, wanted, settings, dtype)
    else:
        found = _existing(Path(str(settings.teacher_vectors)), wanted, texts)
    widths = {vectors.shape[1] for vectors in found.values()}
    if len(widths) > 1:
        raise DataError(
            f"teacher_vectors: vectors of {' and of '.join(map(str, sorted(widths)))} dimensions; expected one teacher's"
        )
    rows: dict[TeacherPrompt, dict[str, int]] = {}
    begin = 0
    for prompt, texts_of in wanted.items():
        rows[prompt] = {text: begin + place for place, text in enumerate(texts_of)}
        begin += len(texts_of)
    return TeacherVectors(vectors=np.concatenate([found[prompt] for prompt in wanted]), rows=rows)


def _encoded(
    teacher: str,
    folder: Path,
    wanted: Mapping[TeacherPrompt, Mapping[str, str]],
    settings: TrainSettings,
    dtype: str,
) -> dict[TeacherPrompt, NDArray[np.float32]]:
    """Return the vectors by prompt, those that are not there encoded first; the teacher is loaded at most once, and let go."""
    identity = teacher_identity(settings)
    loaded: SentenceTransformer | None = None
    found: dict[TeacherPrompt, NDArray[np.float32]] = {}
    for prompt, texts in wanted.items():
        kept = folder / f"{_file_name(prompt.name)}-{digest_json([identity, prompt, settings.max_length, dtype])[:12]}"
        # Another run that learns from this teacher makes them, or a process that trains with this one reads them.
        with locked(kept, wait=True):
            ids = {_text_id(text): text for text in texts}
            there = {name for store, number in _whole_parts(kept) for name in store.read_ids(number)}
            missing = {name: text for name, text in ids.items() if name not in there}
            if missing:
                place = kept / digest_json(list(missing))[:12]
                check_vector_folder(place)
                if loaded is None:
                    loaded = load_encoder(teacher, device=settings.device, dtype=dtype)
                    check_finite(loaded, teacher)
                before = named_prompt(loaded, prompt.name, whose="the teacher") if prompt.words is None else prompt.words
                loaded.prompts = {**loaded.prompts, prompt.name: before}
                corpus = place.with_name(f"{place.name}.jsonl.gz")
                if not corpus.exists():
                    write_json_lines(({"_id": name, "text": text} for name, text in missing.items()), corpus)
                say(f"{teacher} encodes {len(missing):,} texts into {place}, once")
                # As in the training: never longer than the encoder itself reads.
                limit = min(settings.max_length, loaded.max_seq_length or settings.max_length)
                how = EncodeSettings(prompt=prompt.name, max_length=limit, part_rows=_PART_ROWS)
                encode_with(loaded, teacher, Corpus(path=corpus), place, how)
            found[prompt] = _vectors_of(kept, list(ids))
            _check_finite(found[prompt], list(texts), kept)
    del loaded
    release_memory()
    return found


def _whole_parts(kept: Path) -> Iterator[tuple[Store, int]]:
    """Yield store and number of each part of the encodings in a folder that came to their end."""
    for store in map(Store.load, _encodings(kept)):
        if store.complete:
            yield from ((store, number) for number in range(len(store.parts)))


def _vectors_of(kept: Path, names: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors that encodings in a folder have under some ids, in their order; NaN where there is none."""
    rows = {name: row for row, name in enumerate(names)}
    found: NDArray[np.float32] | None = None
    for store, number in _whole_parts(kept):
        if found is None:
            found = np.full((len(names), store.precision.dimension), np.nan, dtype=np.float32)
        ids = store.read_ids(number)
        wanted = [place for place, name in enumerate(ids) if name in rows]
        vectors = np.concatenate([store.precision.restore(block) for block in store.read_vectors(number, _PART_ROWS)])
        found[[rows[ids[place]] for place in wanted]] = vectors[wanted]
    assert found is not None
    return found


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", name)


def _text_id(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _existing(
    source: Path, wanted: Mapping[TeacherPrompt, Mapping[str, str]], texts: Sequence[str | Path]
) -> dict[TeacherPrompt, NDArray[np.float32]]:
    """Return the vectors by prompt from what is there."""
    known: dict[Path, _Known] = {}
    found: dict[TeacherPrompt, NDArray[np.float32]] = {}
    for prompt, ids in wanted.items():
        place = _place_of(source, prompt.name)
        if texts and place == source and len(wanted) > 1:
            raise DataError(f"{source}: expected a folder of vectors in it for each prompt, and found none for {prompt.name!r}")
        if place not in known:
            known[place] = _read(place, [Path(one) for one in texts])
        found[prompt] = _matched(known[place], ids, place)
        _check_finite(found[prompt], list(ids), place)
    return found


def _place_of(source: Path, name: str) -> Path:
    """Return where below a source the vectors under a prompt are: a folder of its name, or the source itself."""
    if (source / name).is_dir():
        return source / name
    named = sorted(source.glob(f"{_file_name(name)}-*"))
    inside = [path for path in named if manifest_of(path).exists() or _encodings(path)]
    if len(inside) > 1:
        raise DataError(
            f"{source}: several folders hold vectors under {name!r} ({', '.join(one.name for one in inside)}); name one"
        )
    return inside[0] if inside else source


def _matched(known: _Known, ids: Mapping[str, str], place: Path) -> NDArray[np.float32]:
    """Return the vectors of texts, in their order."""
    if known.by_id and len(set(ids.values())) < len(ids):
        raise DataError(
            f"{place} has vectors by id, and of the {len(ids):,} distinct texts several have one id, as lines of two files have: put them "
            "into one file, or give a column text beside the vectors"
        )
    if known.by_id and len(known.rows) != len(ids):
        raise DataError(
            f"{place} has {len(known.rows):,} vectors by id, and there are {len(ids):,} distinct texts; give those of these texts, "
            "or a column text beside the vectors"
        )
    rows = [known.rows.get(name if known.by_id else text) for text, name in ids.items()]
    missing = [text for text, row in zip(ids, rows, strict=True) if row is None]
    if missing:
        raise DataError(
            f"{place} has no vector of {len(missing):,} of {len(ids):,} texts, first {shown(missing[0], _SHOWN)!r}; "
            "encode these too, or give the texts that were encoded"
        )
    vectors: NDArray[np.float32] = known.vectors[np.asarray(rows, dtype=np.int64)]
    return vectors


def _check_finite(vectors: NDArray[np.float32], texts: Sequence[str], place: Path) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        text = shown(texts[bad[0]], _SHOWN)
        raise DataError(f"{place}: NaN or infinity in {len(bad):,} vectors, first that of {text!r}; encode these texts again")


def _encodings(kept: Path) -> list[Path]:
    """Return the encodings of texts that trainings left in a folder, one after the other."""
    return [path for path in sorted(kept.glob("*")) if manifest_of(path).exists()]


_Batch = tuple[str, list[str], NDArray[np.float32]]


def _read(place: Path, texts: Sequence[Path]) -> _Known:
    """Read all vectors at a place: those of ``encode``, or rows with a vector and a text or an id."""
    if any(manifest_of(path).exists() for path in (place, *place.glob("shard-*"))):
        return _of_encode(place, texts)
    if encodings := _encodings(place):
        each = [_of_encode(one, texts) for one in encodings]
        begins = np.cumsum([0, *(len(one.vectors) for one in each)])
        rows = {text: begin + row for begin, one in zip(begins, each, strict=False) for text, row in one.rows.items()}
        return _Known(np.concatenate([one.vectors for one in each]), rows)
    batches = list(_of_files(place))
    keys = [key for _, names, _ in batches for key in names]
    rows = {key: row for row, key in enumerate(keys)}
    if len(rows) < len(keys):
        twice = next(key for row, key in enumerate(keys) if rows[key] != row)
        raise DataError(f"{place}: two vectors for {shown(twice, _SHOWN)!r}; expected one")
    return _Known(np.concatenate([vectors for _, _, vectors in batches]), rows, by_id=batches[0][0] != "text")


def _of_files(place: Path) -> Iterator[_Batch]:
    """Yield the rows of a file, or of all files below a folder, which are of one kind, some thousand at a time."""
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*") if suffix_of(path) in _FORMATS)
    first: tuple[str, int] | None = None
    for file in files:
        for column, keys, vectors in _of_parquet(file) if file.suffix == ".parquet" else _of_lines(file):
            kind = column, vectors.shape[1]
            first = first or kind
            if kind != first:
                told = " and ".join(f"{key} with {width} dimensions" for key, width in (first, kind))
                raise DataError(f"{file}: rows of different kinds ({told}); expected one kind")
            yield column, keys, vectors
    if first is None:
        raise DataError(f"{place}: no vectors; expected what encode wrote, or {', '.join(_FORMATS)} files with vectors")


def _of_parquet(file: Path) -> Iterator[_Batch]:
    """Yield the key column's name, its values and (row, dim) vectors, some thousand rows at a time."""
    import pyarrow
    import pyarrow.compute
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            key, column = _columns(table.schema_arrow.names, file)
            for batch in table.iter_batches(batch_size=1 << 14, columns=[key, column]):
                values = batch.column(column)
                lengths = set(pyarrow.compute.list_value_length(values).to_pylist())
                if len(lengths) != 1 or None in lengths:
                    raise DataError(f"{file}: {column} holds vectors of different lengths; expected one dimension")
                vectors = np.asarray(values.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
                yield key, list(map(str, batch.column(key).to_pylist())), vectors.reshape(batch.num_rows, -1)
    except (OSError, pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{file}: no readable vectors ({reason_of(error)}); expected a list of numbers in each row") from error


def _of_lines(file: Path) -> Iterator[_Batch]:
    for row in read_rows(file):
        key, column = _columns(row.values, row.where)
        value = row.values[key]
        try:
            vector = np.asarray(row.values[column], dtype=np.float32)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{row.where}: {column} is no list of numbers") from error
        if vector.ndim != 1:
            raise DataError(f"{row.where}: {column} is no list of numbers")
        yield key, [sound_text(row, key, value) if key == "text" else id_text(row, key, value)], vector[None]


def _columns(names: Any, where: object) -> tuple[str, str]:
    """Return the columns of the text or id, and of the vector."""
    key = next((name for name in ("text", *_IDS) if name in names), None)
    column = next((name for name in _VECTORS if name in names), None)
    if key is None or column is None:
        found = ", ".join(map(str, names)) or "none"
        raise DataError(f"{where}: expected columns text or id, and vector or embedding; found {found}")
    return key, column


def _of_encode(place: Path, texts: Sequence[Path]) -> _Known:
    """Return vectors that ``encode`` made of the texts' one file, after the texts of each part were found the same."""
    folder, corpus = VectorFolder.open(place), place.with_name(f"{place.name}.jsonl.gz")
    if not corpus.is_file():
        if len(texts) != 1 or not texts[0].is_file():
            raise DataError(f"{place} was made of one file of texts; give that file as --texts, or vectors with a column text")
        corpus = texts[0]
    how = folder.first.identity.get("settings", {})
    documents = list(read_documents(corpus, text_column=how.get("text_column", "text"), id_column=how.get("id_column")))
    if len(documents) != folder.rows:
        raise DataError(f"{place} holds {folder.rows:,} vectors, and {corpus} has {len(documents):,} texts; encode it anew")
    rows: dict[str, int] = {}
    for part in folder.parts:
        digest = hashlib.sha256()
        for place_in_part, row in enumerate(part.corpus_rows):
            digest.update(document_bytes(documents[row]))
            rows.setdefault(documents[row].text, part.begin + place_in_part)
        if part.store.parts[part.number].get("source_sha256") != digest.hexdigest():
            first, last = part.corpus_rows[0] + 1, part.corpus_rows[-1] + 1
            raise DataError(
                f"{place} holds vectors of other texts than {corpus} (rows {first:,} to {last:,} differ); encode it anew"
            )
    return _Known(_all_vectors(folder), rows)


def _all_vectors(folder: VectorFolder) -> NDArray[np.float32]:
    vectors = np.empty((folder.rows, folder.first.precision.dimension), dtype=np.float32)
    for part in folder.parts:
        row = part.begin
        for stored in part.store.read_vectors(part.number, _PART_ROWS):
            vectors[row : row + len(stored)] = part.store.precision.restore(stored)
            row += len(stored)
    return vectors
