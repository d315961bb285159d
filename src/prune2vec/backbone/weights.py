"""A model's safetensors files, opened only when a tensor in them is wanted, with an account of what was read."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prune2vec.backbone.source import ModelSource
from prune2vec.errors import CheckpointError, UnsupportedModel

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16


@dataclass
class WeightFiles:
    """The tensors of a model by name.

    Attributes:
        source: The model.
        file_of: File that holds each tensor.
        opened: Files opened so far.
        bytes_read: Bytes of the tensors read so far.
    """

    source: ModelSource
    file_of: dict[str, str]
    opened: list[str] = field(default_factory=list)
    bytes_read: int = 0

    @classmethod
    def find(cls, source: ModelSource) -> WeightFiles:
        """List a model's tensors from its index, or from the header of its single file.

        Raises:
            CheckpointError: There are no safetensors files, or the index is broken.
        """
        try:
            index = json.loads(source.fetch(_INDEX).read_text(encoding="utf-8"))
            return cls(source, dict(index["weight_map"]))
        except FileNotFoundError:
            pass
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{source.name}: broken {_INDEX} ({error})") from error
        try:
            names = header(source.fetch(_SINGLE))
        except FileNotFoundError as error:
            raise CheckpointError(_why_none(source)) from error
        return cls(source, dict.fromkeys(names, _SINGLE))

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) file by file; a file that holds none of ``names`` is never fetched nor opened.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        wanted: dict[str, list[str]] = {}
        for name in names:
            wanted.setdefault(self.file_of[name], []).append(name)
        for file, inside in sorted(wanted.items()):
            with self._opened(file) as tensors:
                for name in inside:
                    tensor = tensors.get_tensor(name)
                    self.bytes_read += tensor.nbytes
                    yield name, tensor

    def take(
        self,
        name: str,
        dtype: torch.dtype | None = None,
        *,
        rows: Tensor | None = None,
        shape: Sequence[int] | None = None,
    ) -> Tensor:
        """Return one tensor, or some rows of it, in memory of its own; nothing of its file stays mapped.

        Args:
            name: Its name in the files.
            dtype: Number format that floating-point tensors are converted to; None for the stored one.
            rows: Numbers of the rows, ascending; None for all.
            shape: What the whole tensor must have; None for any.

        Raises:
            CheckpointError: The file is missing or damaged.
            UnsupportedModel: The tensor has another shape.
        """
        with self._opened(self.file_of[name]) as tensors:
            whole: Tensor = tensors.get_tensor(name)
            if shape is not None and tuple(whole.shape) != tuple(shape):
                raise UnsupportedModel(
                    f"{self.source.name} stores tensors in another form than its config says ({name} is {list(whole.shape)}, "
                    f"expected {list(shape)}); check config.json, or use --stream off"
                )
            part = whole if rows is None else whole[rows]
            self.bytes_read += part.nbytes
            return part.to(dtype if part.is_floating_point() else None, copy=True)

    @contextmanager
    def _opened(self, file: str) -> Iterator[Any]:
        try:
            path = self.source.fetch(file)
            if self.opened[-1:] != [file]:
                self.opened.append(file)
            with safe_open(path, framework="pt") as tensors:
                yield tensors
        except FileNotFoundError as error:
            raise CheckpointError(f"{self.source.name}: {file} is missing, though the index names it") from error
        except SafetensorError as error:
            raise CheckpointError(f"{self.source.name}: {file} is damaged ({error}); fetch or convert it again") from error

    def stored_bytes_per_param(self) -> int:
        """Return the width of most stored weights in bytes, from the header of the first file."""
        weights: Counter[int] = Counter()
        for entry in header(self.source.fetch(min(self.file_of.values()))).values():
            weights[int(entry["dtype"].lstrip("BFIU").split("_")[0]) // 8] += prod(entry["shape"])
        return weights.most_common(1)[0][0]


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a safetensors file (dtype, shape, data_offsets by tensor name) without reading any tensor.

    Raises:
        CheckpointError: It is not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(size))
    except (struct.error, ValueError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged: its safetensors header cannot be read ({error})") from error
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def fingerprint(source: ModelSource) -> str:
    """Return a short identity of a model: the commit of a hub id, else a digest of config, tensor table and samples.

    Of local weights only the file with the token embeddings is opened, which every cut needs, and sampled at 16 places;
    of the others the sizes count. So two models of one shape differ, and a cut reads no more than what it keeps.
    """
    if source.revision is not None:
        return f"hub:{source.location}@{source.revision}"
    digest = hashlib.sha256()
    config = json.loads(source.fetch("config.json").read_text(encoding="utf-8"))
    config.pop("transformers_version", None)
    file_of = WeightFiles.find(source).file_of
    sizes = {file: _size(source, file) for file in sorted(set(file_of.values()))}
    digest.update(json.dumps([config, file_of, sizes], sort_keys=True).encode())
    for chunk in _samples(source.fetch(file_of[_embedding(file_of)])):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()[:32]}"


def _embedding(names: Iterable[str]) -> str:
    """Return the name of the token embeddings, as far as names tell: outside numbered blocks, and not the LM head."""
    outside = [name for name in names if not re.search(r"\.\d+\.", name) and not name.startswith(("lm_head", "embed_out"))]
    return min(outside or names, key=lambda name: (not re.search("embed|wte", name), name))


def _size(source: ModelSource, file: str) -> int | None:
    try:
        return source.fetch(file).stat().st_size
    except FileNotFoundError:
        return None


def _samples(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        for part in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * part // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)


def _why_none(source: ModelSource) -> str:
    for name in _PICKLES:
        try:
            source.fetch(name)
        except FileNotFoundError:
            continue
        return f"{source.name} has only pickled weights ({name}); convert them to safetensors first (save_pretrained does)"
    return f"{source.name} has no {_SINGLE} and no {_INDEX}"
