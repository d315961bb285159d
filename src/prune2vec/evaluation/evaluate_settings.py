"""Settings of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from prune2vec.settings import Seed, Settings


class EvaluateSettings(Settings):
    """How an encoder is evaluated; what is evaluated (data, tasks) is an argument of ``evaluate_encoder``."""

    batch_size: int = Field(default=32, ge=1, le=10**6)
    """Texts per forward pass of an encoder that sentence-transformers must run itself; other batches go by tokens."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """dtype of the weights; auto is bf16 where the hardware multiplies it fast, else fp32."""
    device: str = "auto"
    """Where the encoder runs: auto, cpu, cuda, cuda:1, mps."""
    max_length: int | None = Field(default=None, ge=8, le=2**24)
    """Longest text in tokens, special tokens included; None keeps the encoder's own limit."""
    instruction: Literal["none", "mteb"] = "none"
    """Instructions for MTEB tasks: none (the encoder's own prompts), or the task's: L3Prune's, and in beir-13 EffiR's."""
    max_queries: int | None = Field(default=None, ge=1, le=10**9)
    """Quick look: at most so many queries of a retrieval task (MTEB's or own data), drawn with the seed."""
    max_documents: int | None = Field(default=None, ge=1, le=10**9)
    """Quick look: search among so many documents, all that are relevant to a query and others drawn with the seed. Scores
    are higher than on the whole task; its name in the results says how much of it was used."""
    split: str = "test"
    """Which relevance judgements of a BEIR folder to use, or which held-out files of a folder of triplets or splits of
    a hub data set."""
    corpus: Path | None = None
    """More documents to search in, as distractors: .jsonl, .csv, .parquet or .arrow with "text" and, if there
    is one, "title", or .txt."""
    bm25: bool = True
    """Put BM25 on the same queries beside the encoder."""
    speed_texts: int = Field(default=64, ge=0, le=10**6)
    """Queries, and documents, in the speed sample; 0 measures no speed."""
    speed_repeats: int = Field(default=3, ge=1, le=10**4)
    """Timed passes over the speed sample, of which the median counts."""
    speed_seconds: float = Field(default=30.0, gt=0, le=10**6)
    """No further pass over the queries, or the documents, starts once this many seconds are spent on them."""
    seed: Seed = 42
    """Draws the speed sample, max_queries and max_documents, and the order in which documents of equal score are ranked."""
