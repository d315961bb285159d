"""Vectors on disk: Parquet parts of (id, vector), and a manifest that names the finished ones.

A part is written under a temporary name, flushed, renamed and only then entered into the manifest. Whatever is killed
in between leaves at most a file that the manifest does not name, which the next run writes again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prune2vec.encoding.precision import Precision, ranges_from
from prune2vec.errors import EncodingError, reason_of
from prune2vec.files import digest_file, explained_os_errors, read_json, write_text

FORMAT = "prune2vec.vectors/1"
MANIFEST = "manifest.json"
_SHARD = re.compile(r"shard-\d+-of-(\d+)")


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
        """Write one part and return the store that has it.

        Args:
            ids: One a row.
            vectors: (row, dim) float32.
            source: Digest of the ids and texts, by which a later run knows them again.

        Raises:
            CheckpointError: The file cannot be written.
        """
        import pyarrow
        import pyarrow.parquet

        name = f"part-{len(self.parts):05d}.parquet"
        path, partial = self.folder / name, self.folder / f".{name}.partial"
        stored = self.precision.store(vectors)
        column = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(np.ascontiguousarray(stored).reshape(-1)), type=self.precision.arrow_type()
        )
        table = pyarrow.table({"id": pyarrow.array(ids, type=pyarrow.string()), "vector": column})
        with explained_os_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Vectors do not compress; statistics of them help nobody.
            pyarrow.parquet.write_table(table, partial, compression="none", use_dictionary=False, write_statistics=False)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        part = {"file": name, "rows": len(ids), "sha256": digest_file(path), "source_sha256": source}
        store = replace(self, parts=(*self.parts, part))
        store.save()
        return store

    def finish(self) -> Self:
        """Say in the manifest that the corpus came to its end."""
        store = replace(self, complete=True)
        store.save()
        return store

    def save(self) -> None:
        """Write the manifest, whole or not at all."""
        # Written anew with every part: one line a part is readable, and quick to write for a hundred thousand parts.
        entries = self.to_json()
        parts = ",\n    ".join(map(json.dumps, entries.pop("parts")))
        text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        write_text(self.folder / MANIFEST, f'{text},\n  "parts": [{parts}]\n}}\n')

    def to_json(self) -> dict[str, Any]:
        """Return the manifest."""
        ranges = self.precision.ranges
        return {
            "format": FORMAT,
            "identity": dict(self.identity),
            "made_by": dict(self.made_by),
            "precision": self.precision.name,
            "dimension": self.precision.dimension,
            "ranges": ranges.tolist() if ranges is not None else None,
            "rows": self.rows,
            "parts": [dict(part) for part in self.parts],
            "complete": self.complete,
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a store's manifest.

        Raises:
            DataError: There is none, or it is no JSON.
            EncodingError: It is broken, or a part that it names is not there.
        """
        value = read_json(folder / MANIFEST)
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise EncodingError(f"{folder / MANIFEST}: not a manifest of vectors (expected format {FORMAT!r})")
        try:
            ranges = ranges_from(value["ranges"]) if value["ranges"] is not None else None
            precision = Precision(name=value["precision"], dimension=int(value["dimension"]), ranges=ranges)
            store = cls(
                folder=folder,
                identity=dict(value["identity"]),
                precision=precision,
                made_by=dict(value.get("made_by", {})),
                parts=tuple(dict(part) for part in value["parts"]),
                complete=bool(value["complete"]),
            )
            missing = [part["file"] for part in store.parts if not (folder / part["file"]).is_file()]
        except (KeyError, TypeError, ValueError) as error:
            raise EncodingError(
                f"{folder / MANIFEST}: broken manifest ({reason_of(error)}); encode again into a new folder"
            ) from error
        if missing:
            raise EncodingError(
                f"{folder}: {missing[0]} is in the manifest but not there; restore it, or encode into a new folder"
            )
        return store

    def read(self) -> tuple[list[str], NDArray[Any]]:
        """Return all ids and vectors as they are stored: (row,) and (row, width)."""
        ids = [name for number in range(len(self.parts)) for name in self.read_ids(number)]
        vectors = [self.read_vectors(number) for number in range(len(self.parts))]
        return ids, np.concatenate(vectors) if vectors else np.empty((0, self.precision.width))

    def read_ids(self, number: int) -> list[str]:
        """Return the ids of one part.

        Raises:
            EncodingError: The part cannot be read.
        """
        names: list[str] = self._column(number, "id").to_pylist()
        return names

    def read_vectors(self, number: int) -> NDArray[Any]:
        """Return the vectors of one part as they are stored, (row, width).

        Raises:
            EncodingError: The part cannot be read.
        """
        flat = self._column(number, "vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat).reshape(-1, self.precision.width)

    def _column(self, number: int, name: str) -> Any:
        import pyarrow
        import pyarrow.parquet

        part = self.parts[number]
        path = self.folder / part["file"]
        try:
            column = pyarrow.parquet.read_table(path, columns=[name])[name]
        except (OSError, KeyError, pyarrow.ArrowException) as error:
            raise EncodingError(
                f"{path}: cannot be read ({reason_of(error)}); restore it, or encode into a new folder"
            ) from error
        if len(column) != int(part["rows"]):
            raise EncodingError(
                f"{path}: {len(column)} rows, and the manifest says {part['rows']}; restore it, or encode into a new folder"
            )
        return column


def shard_folder(output: Path, shard: int, shards: int) -> Path:
    """Return the folder of one shard below ``output``; the only one has none of its own."""
    return output if shards == 1 else output / f"shard-{shard:05d}-of-{shards:05d}"


def shard_counts(output: Path) -> list[int]:
    """Return into how many shards the vectors below ``output`` are divided; none where there are none, 1 for a store of all."""
    named = [match for path in output.glob("shard-*") if (match := _SHARD.fullmatch(path.name))]
    return sorted({int(match[1]) for match in named} | ({1} if (output / MANIFEST).exists() else set()))


def mixed_shards(output: Path, counts: Sequence[int]) -> EncodingError:
    """Return what to say of a folder that is divided in more than one way."""
    return EncodingError(f"{output} holds shards of {counts[0]} and of {counts[1]}; keep those of one encoding")
