"""An index over all vectors of a folder, in files beside them that are made anew only where parts have changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from prune2vec.encoding.index_forms import Found, IndexForm, best
from prune2vec.encoding.vector_folder import VectorFolder
from prune2vec.errors import CheckpointError, EncodingError, import_extra, reason_of
from prune2vec.files import digest_json, explained_os_errors
from prune2vec.outputs import INDEX, OwnFolder, clear_all_partials, own_folder
from prune2vec.progress import progress, say

FOLDER = "index"

Part = tuple[int, int, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class VectorIndex:
    """The vectors of a folder, ready to be searched.

    Attributes:
        vectors: What is searched.
        form: The kind of index.
        segments: Indexes of consecutive parts, in order, each with its form, which has the ranges of its own int8 codes: a
            file, or the index itself where none could be written.
    """

    vectors: VectorFolder
    form: IndexForm
    segments: Sequence[tuple[IndexForm, Any]]

    @classmethod
    def build(cls, vectors: VectorFolder, form: IndexForm, *, segment_bytes: int = 1 << 30) -> Self:
        """Take the index files that fit the parts, and make the others.

        Args:
            vectors: The vectors.
            form: The kind of index.
            segment_bytes: Most bytes of vectors in one file, and so in memory at a time.

        Raises:
            MissingExtra: faiss is not installed.
            ConfigError: Another call is writing the index.
            EncodingError: A part cannot be read.
        """
        import_extra("faiss")
        folder = vectors.folder / FOLDER
        planned = [
            (folder / _file_name(group, own), own, group)
            for own, parts in _alike(vectors, form)
            for group in _grouped(parts, form.bytes_per_row, segment_bytes)
        ]
        # By path: parts with the same vectors and ids share a file.
        lacking = {path: (own, group) for path, own, group in planned if not path.is_file()}
        made: dict[Path, Any] = {}
        with _kept(folder) if lacking else nullcontext() as kept:
            with progress("indexing", sum(_rows(group) for _, group in lacking.values())) as advance:
                for path, (own, group) in lacking.items():
                    index = own.empty()
                    for shard, number, part in group:
                        own.add(index, vectors.stores[shard].read_vectors(number))
                        advance(int(part["rows"]))
                    if kept is None or not _written(index, path, kept):
                        made[path] = index
            if kept is not None and not made:
                _remove_others(kept, form, {path.name for path, _, _ in planned})
        return cls(vectors=vectors, form=form, segments=[(own, made.get(path, path)) for path, own, _ in planned])

    def search(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return scores and row numbers of the k nearest rows of each query, best first, both (query, at most k).

        Args:
            queries: (query, dim) float32.
            k: Rows for each query.

        Raises:
            EncodingError: Queries have another dimension, or an index file cannot be read.
        """
        dimension = self.form.precision.dimension
        if queries.shape[1] != dimension:
            raise EncodingError(f"queries of {queries.shape[1]} dimensions, and the vectors have {dimension}")
        scores = np.empty((len(queries), 0), dtype=np.float32)
        rows = np.empty((len(queries), 0), dtype=np.int64)
        before = 0
        for form, segment in self.segments:
            index = _read(segment) if isinstance(segment, Path) else segment
            near, places = form.search(index, queries, k)
            places = np.where(places < 0, places, places + before)
            scores, rows = best(np.hstack([scores, near]), np.hstack([rows, places]), k)
            before += index.ntotal
        return scores, rows


def _alike(vectors: VectorFolder, form: IndexForm) -> Iterator[tuple[IndexForm, list[Part]]]:
    """Yield runs of parts whose codes mean the same: machines differ in the last bits of the vectors that set the ranges."""
    ranges = {shard: store.precision.ranges for shard, store in vectors.stores.items()}
    meanings = {shard: None if found is None else found.tobytes() for shard, found in ranges.items()}
    for _, run in groupby(vectors.parts, key=lambda part: meanings[part[0]]):
        parts = list(run)
        yield replace(form, precision=vectors.stores[parts[0][0]].precision), parts


def _grouped(parts: Sequence[Part], bytes_per_row: int, most: int) -> list[list[Part]]:
    groups: list[list[Part]] = []
    size = 0
    for part in parts:
        own = int(part[2]["rows"]) * bytes_per_row
        if groups and size + own <= most:
            groups[-1].append(part)
            size += own
        else:
            groups.append([part])
            size = own
    return groups


def _rows(group: Sequence[Part]) -> int:
    return sum(int(part["rows"]) for _, _, part in group)


def _file_name(group: Sequence[Part], form: IndexForm) -> str:
    ranges = form.precision.ranges
    content = [form.name, [part["sha256"] for _, _, part in group], None if ranges is None else ranges.tolist()]
    return f"{form.name}-{digest_json(content)[:24]}.faiss"


@contextmanager
def _kept(folder: Path) -> Iterator[OwnFolder | None]:
    """Hold the folder of index files; None where it cannot be written or is not ours, and the index is then in memory."""
    with ExitStack() as stack:
        own = None
        try:
            own = stack.enter_context(own_folder(folder, INDEX))
            clear_all_partials(folder)
        except CheckpointError as error:
            _say_not_kept(error)
        yield own


def _say_not_kept(error: Exception) -> None:
    say(f"the index is not kept: {' '.join(str(error).split())[:200]}")


def _written(index: Any, path: Path, own: OwnFolder) -> bool:
    """Write an index whole or not at all, and return whether that was possible."""
    faiss = import_extra("faiss")
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with explained_os_errors(path), own.writing(path.name):
            try:
                # FAISS reports a failed write as its own error; the file below shows whether all is there.
                (faiss.write_index_binary if _is_binary(index) else faiss.write_index)(index, str(partial))
                descriptor = os.open(partial, os.O_RDONLY)
                os.fsync(descriptor)
                os.close(descriptor)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
    except (CheckpointError, RuntimeError) as error:
        _say_not_kept(error)
        return False
    return True


def _is_binary(index: Any) -> bool:
    return isinstance(index, import_extra("faiss").IndexBinary)


def _read(path: Path) -> Any:
    faiss = import_extra("faiss")
    try:
        if "-binary-" in path.name:
            return faiss.read_index_binary(str(path))
        # Mapped, not read: memory then holds what a search touches, and the system may drop it again.
        return faiss.read_index(str(path), getattr(faiss, "IO_FLAG_MMAP_IFC", 0))
    except RuntimeError as error:
        raise EncodingError(f"{path} cannot be read ({reason_of(error)}); remove it, and it is made anew") from error


def _remove_others(own: OwnFolder, form: IndexForm, keep: set[str]) -> None:
    for name in [name for name in own.files if name.startswith(f"{form.name}-") and name not in keep]:
        # exact-int8-DIGEST and exact-int8-unit-DIGEST begin alike; that is another form, and rebuilt just the same.
        with suppress(CheckpointError):
            own.remove(name)
