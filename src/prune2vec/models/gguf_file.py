"""A GGUF file: its header, with every length checked against the file, and its tensors a piece at a time."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from prune2vec.errors import ModelError, import_extra, reason_of

# What the numbers of the format stand for, as struct writes them; 8 is a text, 9 a list.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_VERSIONS = (2, 3)
_MOST_DIMENSIONS = 4
# Values that are unpacked at a time: 32 MB of them.
_PIECE = 1 << 23


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies in the file, and how.

    Attributes:
        name: Its name in the file.
        shape: Its sizes, rows first as in torch.
        kind: Its dtype: ``F32``, ``F16``, ``BF16``, ``Q4_1``, ...
        offset: First byte, from the start of the file.
        row_bytes: Bytes of one run along the last dimension.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    offset: int
    row_bytes: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape[:-1]) * self.row_bytes


@dataclass(frozen=True)
class GGUFFile:
    """A GGUF file whose header was read and fits the file: its metadata, and its tensors by name."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Read a file's header.

        Raises:
            MissingExtra: The ``gguf`` package is not installed.
            ModelError: It is not a GGUF file, is cut off, or contradicts itself.
        """
        import_extra("gguf")
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return cls(path, *_Header(content).read())
        except (ValueError, OSError) as error:
            raise ModelError(f"{path} is not a readable GGUF file: {reason_of(error)}; fetch or convert it again") from error

    @property
    def architecture(self) -> str:
        """The architecture's name, as llama.cpp calls it."""
        return str(self.metadata.get("general.architecture"))

    def values(self, tensor: StoredTensor) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return a whole tensor; NaN, infinity, or no floating-point numbers are a ``ModelError``."""
        return np.concatenate(list(self.pieces(tensor))).reshape(tensor.shape)

    def pieces(self, tensor: StoredTensor, limit: int | None = None) -> Iterator[np.ndarray[Any, Any]]:
        """Yield the first ``limit`` rows (None: all) in float32, some at a time, a vector at once; errors as in ``values``."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        rows = tensor.shape[0] if len(tensor.shape) > 1 else 1
        width, step = tensor.nbytes // rows, max(1, _PIECE * rows // prod(tensor.shape))
        plain = {"F32": np.float32, "F16": np.float16}.get(tensor.kind)
        where = f"{self.path.name}: tensor {tensor.name}"
        for start in range(0, min(rows, limit or rows), step):
            count = min(step, min(rows, limit or rows) - start)
            raw = np.fromfile(self.path, np.uint8, count * width, offset=tensor.offset + start * width)
            packed = raw.view(plain) if plain is not None else raw.reshape(-1, tensor.row_bytes)
            try:
                with np.errstate(over="ignore", invalid="ignore"):
                    values: np.ndarray[Any, Any] = dequantize(packed, GGMLQuantizationType[tensor.kind])
            except (NotImplementedError, ValueError) as error:
                raise ModelError(f"{where} is of type {tensor.kind}: {reason_of(error)}") from error
            if not np.isfinite(values).all():
                raise ModelError(f"{where} holds NaN or an infinity; fetch or convert the file again")
            yield values.reshape(-1, *tensor.shape[1:])


class _Header:
    """Reads a header from front to back; a value beyond the end of the file is an error that says where."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content, self._at = content, 0

    def read(self) -> tuple[dict[str, Any], dict[str, StoredTensor]]:
        if self._content[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        self._at = 4
        version, tensors, keys = self._take("IQQ")
        if version not in _VERSIONS:
            raise ValueError(f"version {version} of the format, or of another byte order; versions 2 and 3 are read")
        metadata = self._named(keys, self._value, "key")
        entries = self._named(tensors, self._tensor_entry, "tensor")
        return metadata, self._placed(entries, metadata.get("general.alignment", 32))

    def _named(self, count: int, read: Any, what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            name = self._text()
            if name in found or not name.isprintable():
                raise ValueError(f"{what} {name!r} in its header is there twice, or is no name")
            found[name] = read()
        return found

    def _take(self, form: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        if self._at + size > len(self._content):
            raise ValueError(f"it ends at byte {len(self._content)}, inside its header")
        self._at += size
        return struct.unpack_from(f"<{form}", self._content, self._at - size)

    def _text(self) -> str:
        (length,) = self._take("Q")
        # A longer one cannot be written as a format.
        return bytes(self._take(f"{min(length, len(self._content))}s")[0]).decode("utf-8")

    def _value(self, kind: int | None = None) -> Any:
        kind = self._take("I")[0] if kind is None else kind
        if kind in _SCALARS:
            return self._take(_SCALARS[kind])[0]
        if kind == _TEXT:
            return self._text()
        if kind != _LIST:
            raise ValueError(f"a value of unknown type {kind} in its header")
        inner, count = self._take("IQ")
        if inner == _LIST:
            raise ValueError("a list of lists in its header")
        if count > len(self._content):
            raise ValueError(f"a list of {count} values in its header, which is longer than the file")
        if inner in _SCALARS:
            return list(self._take(f"{count}{_SCALARS[inner]}"))
        return [self._value(inner) for _ in range(count)]

    def _tensor_entry(self) -> tuple[tuple[int, ...], int, int]:
        (dimensions,) = self._take("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"a tensor of {dimensions} dimensions in its header")
        shape = self._take(f"{dimensions}Q")
        return (shape[::-1], *self._take("IQ"))

    def _placed(self, entries: dict[str, tuple[tuple[int, ...], int, int]], alignment: Any) -> dict[str, StoredTensor]:
        """Check that the tensors follow each other as the format wants it, within the file."""
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"general.alignment is {alignment!r}, expected a power of two")
        tensors, begin, expected, end = {}, -(-self._at // alignment) * alignment, 0, len(self._content)
        for name, (shape, kind, offset) in entries.items():
            if offset != expected:
                raise ValueError(f"tensor {name} is said to be at {offset}, expected {expected}")
            tensors[name] = tensor = _stored(name, shape, kind, begin + offset)
            if tensor.offset + tensor.nbytes > end:
                raise ValueError(f"it is cut off in tensor {name}: {end} bytes, {name} ends at {tensor.offset + tensor.nbytes}")
            expected += -(-tensor.nbytes // alignment) * alignment
        # Bytes that were put in move all values behind them, and only the end of the file tells.
        if end > begin + expected:
            raise ValueError(f"its last tensor ends at byte {begin + expected}, and it has {end}")
        return tensors


def _stored(name: str, shape: tuple[int, ...], number: int, offset: int) -> StoredTensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        kind = GGMLQuantizationType(number)
    except ValueError as error:
        raise ValueError(f"tensor {name} is of unknown type {number}") from error
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if 0 in shape or shape[-1] % block:
        raise ValueError(f"tensor {name} has shape {list(shape)}, which is none of {kind.name} (blocks of {block})")
    return StoredTensor(name=name, shape=shape, kind=kind.name, offset=offset, row_bytes=shape[-1] // block * block_bytes)
