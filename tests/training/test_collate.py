"""Batches are tokenised as by sentence-transformers, and counted exactly."""

from __future__ import annotations

from pathlib import Path

import torch

from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.collate import BatchStats, NotingCollator

PROMPTS = {"one": {"anchor": "find: ", "positive": ""}}


def test_notes_count_tokens_texts_and_cuts(small: Path) -> None:
    encoder = load_encoder(small, device="cpu")
    encoder.max_seq_length = 10
    collator = NotingCollator.of(encoder, PROMPTS)
    ids = encoder.tokenizer("the fox")["input_ids"]
    exact = encoder.tokenizer.decode(encoder.tokenizer("the lazy dog " * 9)["input_ids"][:10])
    assert len(encoder.tokenizer(exact)["input_ids"]) == 10
    rows = [
        {"dataset_name": "one", "anchor": "a", "positive": exact},
        {"dataset_name": "one", "anchor": "b", "positive": "the fox " * 50},
        {"dataset_name": "one", "anchor": "c " * 50, "positive": "the fox"},
    ]
    batch = collator(rows)
    prompt = len(encoder.tokenizer("find: ")["input_ids"])
    assert batch["anchor_prompt_length"] == prompt
    assert torch.equal(batch["positive_input_ids"][2, : len(ids)], torch.tensor(ids))
    # A text of exactly the limit is not cut.
    expected = 2 * len(encoder.tokenizer("find: a")["input_ids"]) + 10 + 10 + 10 + len(ids)
    assert list(collator.notes) == [BatchStats(dataset="one", tokens=expected, texts=6, cut=2)]
    collator(rows[:1])
    assert [note.cut for note in collator.notes] == [2, 0]
