"""The trainer's collator, with notes on what each batch holds."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator


@dataclass(frozen=True, kw_only=True)
class BatchStats:
    """What one batch holds.

    Attributes:
        dataset: The table its rows come from.
        tokens: Tokens without padding.
        texts: Texts in it.
        cut: Those that were longer than the limit.
    """

    dataset: str
    tokens: int
    texts: int
    cut: int


class CutCounter:
    """An encoder's ``preprocess`` that counts the texts it cuts at the encoder's limit."""

    def __init__(self, encoder: SentenceTransformer) -> None:
        self._encoder = encoder
        self.cut = 0

    def __call__(self, inputs: list[str], **kwargs: Any) -> Any:
        """Tokenise texts."""
        output = self._encoder.preprocess(inputs, **kwargs)
        # Only fast tokenisers keep what they cut off, and only those are used here.
        self.cut += sum(bool(encoding.overflowing) for encoding in getattr(output, "encodings", None) or ())
        return output


@dataclass
class NotingCollator(SentenceTransformerDataCollator):
    """Tokenises a batch as sentence-transformers does and leaves a note on it, in the order in which batches are used.

    A note cannot travel inside the batch: what the trainer does not know there, it hands to the model.
    """

    notes: deque[BatchStats] = field(default_factory=deque)
    counter: CutCounter = field(init=False)

    @classmethod
    def of(cls, encoder: SentenceTransformer, prompts: dict[str, dict[str, str]]) -> NotingCollator:
        """Return a collator for ``encoder`` with prompts by table and column."""
        counter = CutCounter(encoder)
        collator = cls(preprocess_fn=counter, prompts=prompts)
        collator.counter = counter
        return collator

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """Tokenise rows of one table."""
        self.counter.cut = 0
        batch: dict[str, Any] = super().__call__(features)
        masks = [value for key, value in batch.items() if key.endswith("_attention_mask")]
        self.notes.append(
            BatchStats(
                dataset=str(batch.get("dataset_name", "")),
                tokens=sum(int(torch.count_nonzero(mask)) for mask in masks),
                texts=sum(len(mask) for mask in masks),
                cut=self.counter.cut,
            )
        )
        return batch
