"""Settings of encoding a corpus, and of searching in what was encoded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from prune2vec.settings import Settings

# These change how fast and where it is done, and what an interruption loses, not what is written. What dtype came to is
# compared by itself.
_FREE = frozenset({"device", "dtype", "part_rows", "token_budget"})
MOST_SHARDS = 999_999
"""The largest number of six digits."""


class EncodeSettings(Settings):
    """How the texts of a corpus become vectors, and how these are stored."""

    prompt: str = "document"
    """Name of the encoder's prompt that stands before every text: document, query or another of its prompts; or none."""
    max_length: int | None = Field(default=None, ge=8, le=2**24)
    """Longest text in tokens, special tokens included; unset keeps the encoder's own limit."""
    dimensions: int | None = Field(default=None, ge=1, le=10**6)
    """Keep only the first so many dimensions and normalise again (for encoders trained with matryoshka dimensions)."""
    precision: Literal["float32", "float16", "int8", "binary"] = "float32"
    """How vectors are stored: numbers of 4, 2 or 1 byte, or one bit (packed, 8 a byte)."""
    calibration: int = Field(default=1000, ge=2, le=10**7)
    """Texts from the head of the corpus whose vectors set the range of int8."""
    part_rows: int = Field(default=10_000, ge=1, le=10**8)
    """Rows of one Parquet file: what an interruption loses at most."""
    shard: str = Field(default="0/1", pattern=r"^[0-9]{1,6}/[1-9][0-9]{0,5}$")
    """Which share of the rows: i/n takes every n-th row from the i-th on (0/4, 1/4, 2/4, 3/4 on four machines)."""
    text_column: str = "text"
    """Column with the text; before the column text, and no other, a title column stands with a blank, if there is one."""
    id_column: str | None = None
    """Column with the id; unset takes _id or id, else the row's number."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the forward pass; auto is bf16 where the hardware multiplies it fast, which can cost a little retrieval
    quality, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    token_budget: int | None = Field(default=None, ge=64, le=2**31)
    """Tokens in one forward pass; changes speed and memory, and at most the last digits. Unset takes what suits the device."""

    @field_validator("shard")
    @classmethod
    def _is_there(cls, shard: str) -> str:
        number, count = map(int, shard.split("/"))
        if number >= count:
            raise ValueError(f"{shard}: shards are numbered from 0 to {count - 1}")
        return shard

    @property
    def shard_of(self) -> tuple[int, int]:
        """The shard's number and the number of shards."""
        number, count = self.shard.split("/")
        return int(number), int(count)

    def identity(self) -> dict[str, object]:
        """Return the settings that decide what is written; a run is only continued when they are the same."""
        free = _FREE if self.precision == "int8" else _FREE | {"calibration"}
        return self.model_dump(mode="json", exclude=set(free))


class SearchSettings(Settings):
    """How a query becomes a vector, and which vectors it is compared with."""

    prompt: str = "query"
    """Name of the encoder's prompt that stands before every query: query, document or another of its prompts; or none."""
    candidates: int = Field(default=10, ge=1, le=10**6)
    """For binary vectors: so many times k rows are found by their bits, then ranked with the query's own floats."""
    partial: bool = False
    """Search what is there of an encoding that is not finished, or that lacks shards."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the forward pass of the query."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps: for the encoder; vectors are compared on the CPU."""
