"""What a streamed run did: bytes, seconds and memory, block by block."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from prune2vec.forward.memory_plan import MemoryPlan


@dataclass(frozen=True, kw_only=True)
class RunStats:
    """What one streamed run did.

    Attributes:
        blocks: Blocks read.
        bytes_read: Bytes read from the files.
        seconds: Wall time of each block: waiting for it, and all texts through it.
        waiting: The part of it spent waiting for the block.
        tokens: Tokens that went through, once a look.
        looks: Variants of the model.
        room: How the memory was used.
    """

    blocks: int
    bytes_read: int
    seconds: tuple[float, ...]
    waiting: tuple[float, ...]
    tokens: int
    looks: int
    room: MemoryPlan

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {
            "blocks": self.blocks,
            "bytes_read": self.bytes_read,
            "seconds_per_block": statistics.median(self.seconds),
            "seconds": sum(self.seconds),
            "waiting_seconds": sum(self.waiting),
            "tokens": self.tokens,
            "looks": self.looks,
            **asdict(self.room),
        }
