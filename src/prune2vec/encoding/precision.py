"""How a vector is stored: as floats, as one byte a dimension, or as one bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.util import quantize_embeddings

from prune2vec.errors import EncodingError

if TYPE_CHECKING:
    import pyarrow

_BITS = 8
_LEAST_RANGE = np.float32(1e-6)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A number format of stored vectors.

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
        """Return (row, dim) float32 vectors as they are stored."""
        if self.name in ("float32", "float16"):
            return vectors.astype(self.name)
        if not len(vectors):
            return np.empty((0, self.width), dtype=self.arrow_name)
        if self.name == "int8":
            # To the nearest step: sentence-transformers' own function cuts towards 0, which doubles the error. Outside the
            # calibrated range a value would wrap around.
            step, _ = self.steps()
            codes = np.rint((vectors - self.ranges[0]) / step - 128)  # type: ignore[index]
            return np.asarray(np.clip(codes, -128, 127), dtype=np.int8)
        return np.asarray(quantize_embeddings(vectors, precision="ubinary"))

    def restore(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return stored (row, width) numbers as (row, dim) float32; a bit becomes 1 or -1."""
        if self.name == "binary":
            return np.unpackbits(stored, axis=1).astype(np.float32) * 2 - 1
        if self.name == "int8":
            step, zero = self.steps()
            return stored.astype(np.float32) * step + zero
        return stored.astype(np.float32)

    def steps(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what one step of int8 is worth in each dimension and what 0 stands for, both (dim,)."""
        assert self.ranges is not None
        low, high = self.ranges
        step = (high - low) / 255
        return step, low + 128 * step

    @property
    def arrow_name(self) -> str:
        """Arrow's (and numpy's) name of a stored number."""
        return "uint8" if self.name == "binary" else self.name

    def arrow_type(self) -> pyarrow.DataType:
        """Return the Parquet column's type: a list of fixed size."""
        import pyarrow

        kinds = {"float32": pyarrow.float32(), "float16": pyarrow.float16(), "int8": pyarrow.int8(), "uint8": pyarrow.uint8()}
        return pyarrow.list_(kinds[self.arrow_name], self.width)


def ranges_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least and the greatest value of every dimension, (2, dim); never the same, since a step must not be 0."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    # In fp32 a large value plus a small one is the large value.
    least = _LEAST_RANGE * np.maximum(1, np.abs(low))
    return np.stack([low, np.maximum(high, low + least)])


def ranges_from(values: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    """Read back ranges from a manifest."""
    return np.asarray(values, dtype=np.float32)
