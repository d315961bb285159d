"""Vectors on disk: how one is stored, Parquet parts of (id, vector), and a manifest that names the finished ones.

A part is written whole and only then entered into the manifest. Whatever is killed in between leaves at most a file that
the manifest does not name, which the next run writes again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import EncodingError, reason_of
from prune2vec.files import read_json, write_bytes, write_text
from prune2vec.outputs import VECTORS

FORMAT = "prune2vec.vectors/1"
# Readers of a folder of Parquet (pandas, pyarrow, polars, datasets) pass over names that begin so.
MANIFEST = VECTORS
_EARLIER_MANIFEST = "manifest.json"
_SHARD = re.compile(r"shard-\d+-of-(\d+)")
_BITS = 8
_LEAST_RANGE = np.float32(1e-6)
# How stored numbers become a vector again, for those who read parts without us.
_RESTORED = {
    "int8": "least + (vector + 128) * (greatest - least) / 255, for each dimension",
    "binary": "bits of uint8, the first dimension the highest bit of the first: 1 for a positive value, 0 for -1",
}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A dtype of stored vectors.

    Attributes:
        name: float32, float16, int8 or binary.
        dimension: Dimensions of a vector before it is packed.
        ranges: For int8, (2, dim): least and greatest value of each dimension, which become -128 and 127.
    """

    name: str
    dimension: int
    ranges: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Refuse bits that do not fill bytes, and bytes without a range."""
        if self.name == "binary" and self.dimension % _BITS:
            raise EncodingError(
                f"binary packs 8 dimensions into a byte, and there are {self.dimension}; set dimensions to a multiple of 8"
            )
        if self.name == "int8" and self.ranges is None:
            raise EncodingError("int8 needs the range of each dimension")

    @property
    def width(self) -> int:
        """Stored numbers of one vector."""
        return self.dimension // _BITS if self.name == "binary" else self.dimension

    def store(self, vectors: NDArray[np.float32]) -> NDArray[Any]:
        """Return (row, dim) float32 vectors as they are stored, (row, width)."""
        if self.name == "binary":
            return np.packbits(vectors > 0, axis=1)
        if self.ranges is None:
            with np.errstate(over="ignore"):
                stored = vectors.astype(self.name)
            if not np.isfinite(stored).all():
                most = np.finfo(self.name).max
                raise EncodingError(
                    f"a vector has {np.abs(vectors).max():.0f}, beyond the {most:.0f} of {self.name}; store float32 or int8"
                )
            return stored
        # To the nearest step: sentence-transformers' own function cuts towards 0, which doubles the error. Outside the
        # calibrated range a value would wrap around.
        codes = np.rint((vectors - self.ranges[0]) / self._step - 128)
        return np.asarray(np.clip(codes, -128, 127), dtype=np.int8)

    def outside(self, vectors: NDArray[np.float32]) -> float:
        """Return the share of the numbers of (row, dim) vectors that lie outside the ranges, and are stored as their ends."""
        if self.ranges is None:
            return 0.0
        return float(np.mean((vectors < self.ranges[0] - self._step) | (vectors > self.ranges[1] + self._step)))

    def restore(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored (row, width) numbers as (row, dim) float32; a bit becomes 1 or -1."""
        if self.name == "binary":
            return np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
        if self.ranges is None:
            return stored.astype(np.float32)
        values: NDArray[np.float32] = stored.astype(np.float32) * self._step + (self.ranges[0] + 128 * self._step)
        return values

    @property
    def _step(self) -> NDArray[np.float32]:
        assert self.ranges is not None
        step: NDArray[np.float32] = (self.ranges[1] - self.ranges[0]) / 255
        return step


def ranges_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least and the greatest value of every dimension, (2, dim); never the same, since a step must not be 0."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    # In fp32 a large value plus a small one is the large value.
    least = _LEAST_RANGE * np.maximum(1, np.abs(low))
    return np.stack([low, np.maximum(high, low + least)])


@dataclass(frozen=True, kw_only=True)
class Store:
    """The folder of one shard's vectors.

    Attributes:
        folder: Where the parts are.
        identity: What decides what is in them; a store is only continued when it is the same.
        precision: How vectors are stored.
        parts: Finished parts in order: ``{"file", "rows", "sha256", "source_sha256"}``; the last is of the ids and texts.
        complete: Whether the corpus came to its end.
        made_by: What a search needs to know of the encoder: its path, whether the vectors have length 1, how
            it compares them; and the corpus's time of change, by which a run tells whether to compare its texts anew.
    """

    folder: Path
    identity: Mapping[str, Any]
    precision: Precision
    made_by: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Mapping[str, Any], ...] = ()
    complete: bool = False

    @property
    def rows(self) -> int:
        """Rows in the finished parts."""
        return sum(int(part["rows"]) for part in self.parts)

    def add(self, ids: Sequence[str], vectors: NDArray[np.float32], *, source: str | None = None) -> Self:
        """Write one part, ids and (row, dim) float32 vectors, and return the store that has it; ``source`` digests its texts."""
        import pyarrow
        import pyarrow.parquet

        # From memory as it lies there: pyarrow's own conversions import pandas first.
        stored = np.ascontiguousarray(self.precision.store(vectors))
        kind, numbers = pyarrow.from_numpy_dtype(stored.dtype), [None, pyarrow.py_buffer(stored)]
        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.Array.from_buffers(kind, stored.size, numbers), stored.shape[1])
        names = [name.encode() for name in ids]
        ends = np.cumsum([0, *map(len, names)], dtype=np.int32)
        texts = pyarrow.StringArray.from_buffers(len(names), pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(names)))
        table = pyarrow.table({"id": texts, "vector": column}, metadata=self._metadata())
        content = pyarrow.BufferOutputStream()
        # Vectors do not compress; statistics of them help nobody.
        pyarrow.parquet.write_table(table, content, compression="none", use_dictionary=False, write_statistics=False)
        name, content = f"part-{len(self.parts):05d}.parquet", content.getvalue()
        write_bytes(self.folder / name, content)
        digest = hashlib.sha256(content).hexdigest()
        part = {"file": name, "rows": len(ids), "sha256": digest, "source_sha256": source}
        store = replace(self, parts=(*self.parts, part))
        store.save()
        return store

    def _metadata(self) -> dict[str, str]:
        """Return what a part's schema says of its vectors to those who read it without the manifest."""
        precision, model = self.precision, str(self.made_by.get("encoder", ""))
        about: dict[str, Any] = {
            # Of an encoder's folder its name alone: parts go to others, who do not have the path.
            "model": Path(model).name if Path(model).is_absolute() else model,
            "dimension": precision.dimension,
            "precision": precision.name,
            "normalised": self.made_by.get("normalised"),
            "similarity": self.made_by.get("similarity"),
        }
        if (restore := _RESTORED.get(precision.name)) is not None:
            about["restore"] = restore
        if precision.ranges is not None:
            about |= {"least": precision.ranges[0].tolist(), "greatest": precision.ranges[1].tolist()}
        return {"prune2vec": json.dumps(about)}

    def finish(self) -> Self:
        """Say in the manifest that the corpus came to its end."""
        store = replace(self, complete=True)
        store.save()
        return store

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        # Written anew with every part: one line a part is readable, and quick to write for a hundred thousand parts.
        ranges = self.precision.ranges
        entries = {
            "format": FORMAT,
            "identity": dict(self.identity),
            "made_by": dict(self.made_by),
            "precision": self.precision.name,
            "dimension": self.precision.dimension,
            "ranges": ranges.tolist() if ranges is not None else None,
            "rows": self.rows,
            "complete": self.complete,
        }
        text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        parts = ",\n    ".join(json.dumps(dict(part)) for part in self.parts)
        before = manifest_of(self.folder)
        write_text(self.folder / MANIFEST, f'{text},\n  "parts": [{parts}]\n}}\n')
        if before.name == _EARLIER_MANIFEST:
            before.unlink()

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a store's manifest.

        Raises:
            DataError: There is none, or it is no JSON.
            EncodingError: It is broken, or a part that it names is not there.
        """
        path = manifest_of(folder)
        value = read_json(path)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise EncodingError(f"{path}: not a manifest of vectors (expected format {FORMAT!r})")
        try:
            ranges = np.asarray(value["ranges"], dtype=np.float32) if value["ranges"] is not None else None
            store = cls(
                folder=folder,
                identity=dict(value["identity"]),
                precision=Precision(name=value["precision"], dimension=int(value["dimension"]), ranges=ranges),
                made_by=dict(value.get("made_by", {})),
                parts=tuple(dict(part) for part in value["parts"]),
                complete=bool(value["complete"]),
            )
            missing = [part["file"] for part in store.parts if not (folder / part["file"]).is_file()]
        except (KeyError, TypeError, ValueError) as error:
            raise EncodingError(f"{path}: broken manifest ({reason_of(error)}); encode again into a new folder") from error
        if missing:
            raise EncodingError(
                f"{folder}: {missing[0]} is in the manifest but not there; restore it, or encode into a new folder"
            )
        return store

    def read_ids(self, number: int) -> list[str]:
        """Return the ids of one part."""
        return [name for names in self._columns(number, "id", 1 << 16) for name in names.to_pylist()]

    def read_vectors(self, number: int, rows: int) -> Iterator[NDArray[Any]]:
        """Yield the vectors of one part as they are stored, at most ``rows`` at a time, (row, width)."""
        for column in self._columns(number, "vector", rows):
            # pyarrow's own conversion imports pandas first.
            yield np.from_dlpack(column.flatten()).reshape(-1, self.precision.width)

    def _columns(self, number: int, name: str, rows: int) -> Iterator[Any]:
        """Yield one column of a part as arrays of at most so many rows; EncodingError if it cannot be read."""
        import pyarrow
        import pyarrow.parquet

        part = self.parts[number]
        path = self.folder / part["file"]
        there = 0
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=rows, columns=[name]):
                    there += batch.num_rows
                    yield batch.column(name)
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise EncodingError(
                f"{path}: cannot be read ({reason_of(error)}); restore it, or encode into a new folder"
            ) from error
        if there != int(part["rows"]):
            raise EncodingError(
                f"{path}: {there} rows, and the manifest says {part['rows']}; restore it, or encode into a new folder"
            )


def manifest_of(folder: Path) -> Path:
    """Return where a store's manifest is, or would be: under the name of earlier versions where they have written it."""
    path, earlier = folder / MANIFEST, folder / _EARLIER_MANIFEST
    return earlier if earlier.exists() and not path.exists() else path


def shard_folder(output: Path, shard: int, shards: int) -> Path:
    """Return the folder of one shard below ``output``; the only one has none of its own."""
    return output if shards == 1 else output / f"shard-{shard:05d}-of-{shards:05d}"


def shard_counts(output: Path) -> list[int]:
    """Return into how many shards the vectors below ``output`` are divided, 1 for a store of all; nothing where there are none."""
    named = [match for path in output.glob("shard-*") if (match := _SHARD.fullmatch(path.name))]
    counts = sorted({int(match[1]) for match in named} | ({1} if manifest_of(output).exists() else set()))
    if len(counts) > 1:
        raise EncodingError(f"{output} holds shards of {counts[0]} and of {counts[1]}; keep those of one encoding")
    return counts


def check_shards(output: Path, shards: int) -> None:
    """Refuse, with an ``EncodingError``, another number of shards than ``output`` has: all would be encoded again."""
    there = shard_counts(output)
    if there == [1] and shards != 1:
        raise EncodingError(f"{output} holds vectors in one piece; leave --shard and --ray out, or give another output")
    if there and there != [shards]:
        raise EncodingError(
            f"{output} holds {there[0]} shards; give --ray {there[0]} or --shard i/{there[0]}, or another output"
        )


def check_vector_folder(folder: Path) -> None:
    """Refuse, with an ``EncodingError``, a folder that is not empty and has no manifest of vectors."""
    if not folder.is_dir() or manifest_of(folder).exists():
        return
    # The manifest is written before the first part, so only its own write can have been broken off.
    if any(not path.name.startswith(f".{MANIFEST}.partial-") for path in folder.iterdir()):
        raise EncodingError(f"{folder} is not empty and holds no vectors; give another output")
