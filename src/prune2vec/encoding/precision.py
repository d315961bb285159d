"""How a vector is stored: as floats, as one byte a dimension, or as one bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prune2vec.errors import EncodingError

if TYPE_CHECKING:
    import pyarrow

_BITS = 8
_LEAST_RANGE = np.float32(1e-6)


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
            return vectors.astype(self.name)
        # To the nearest step: sentence-transformers' own function cuts towards 0, which doubles the error. Outside the
        # calibrated range a value would wrap around.
        codes = np.rint((vectors - self.ranges[0]) / self._step - 128)
        return np.asarray(np.clip(codes, -128, 127), dtype=np.int8)

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

    def arrow_type(self) -> pyarrow.DataType:
        """Return the Parquet column's type: a list of fixed size."""
        import pyarrow

        return pyarrow.list_(pyarrow.from_numpy_dtype("uint8" if self.name == "binary" else self.name), self.width)


def ranges_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the least and the greatest value of every dimension, (2, dim); never the same, since a step must not be 0."""
    low, high = vectors.min(axis=0), vectors.max(axis=0)
    # In fp32 a large value plus a small one is the large value.
    least = _LEAST_RANGE * np.maximum(1, np.abs(low))
    return np.stack([low, np.maximum(high, low + least)])
