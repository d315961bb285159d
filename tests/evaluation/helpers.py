"""Tiny encoders, tiny data and a tiny mirror for the evaluation tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from tests.tiny import tiny_model, tiny_tokenizer

QUICK: dict[str, Any] = {"dtype": "float32", "device": "cpu", "speed_texts": 3, "speed_repeats": 2, "batch_size": 8}


def save_tiny_encoder(
    folder: Path,
    *,
    seed: int = 0,
    prompts: dict[str, str] | None = None,
    default_prompt: str | None = None,
    broken: bool = False,
) -> Path:
    """Write a stock sentence-transformers folder with a random llama in it; ``broken`` puts NaN into its weights."""
    bare = folder.with_name(folder.name + "-bare")
    model = tiny_model("llama", seed)
    if broken:
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(float("nan"))
    model.save_pretrained(bare)
    tiny_tokenizer().save_pretrained(bare)
    pooling = Pooling(32, pooling_mode="weightedmean", include_prompt=False)
    encoder = SentenceTransformer(
        modules=[Transformer(str(bare), max_seq_length=64), pooling, Normalize()],
        prompts=prompts,
        default_prompt_name=default_prompt,
        device="cpu",
    )
    encoder.save_pretrained(str(folder), create_model_card=False)
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_triplets_file(path: Path, count: int = 6) -> Path:
    """Write ``count`` triplets whose positives share words with their anchors."""
    words = ("apple", "river", "stone", "cloud", "tiger", "piano", "ladder", "window")
    rows = [
        {"query": f"{word} question", "positive": f"about the {word} itself", "negative": f"nothing of the kind {place}"}
        for place, word in enumerate(words[:count])
    ]
    return write_rows(path, rows)


def write_mirror(folder: Path) -> Path:
    """Write local copies of a retrieval, an STS and a classification task, in the layout that ``datasets`` reads."""
    _write_scifact(folder / "SciFact")
    sts = folder / "STSBenchmark"
    pairs = [("a quick fox", "the quick fox", 4.5), ("a lazy dog", "birds sing", 0.5), ("cut layers", "layers cut", 4.0)]
    write_rows(sts / "test.jsonl", [{"sentence1": a, "sentence2": b, "score": score} for a, b, score in pairs])
    _write_card(sts, {"default": {"test": "test.jsonl"}})
    bank = folder / "Banking77Classification"
    texts = [("lost card", 0), ("card lost again", 0), ("exchange rate", 1), ("what rate do you give", 1)]
    rows = [
        {"text": f"{text} {number}", "label": label, "label_text": str(label)} for number in range(3) for text, label in texts
    ]
    write_rows(bank / "train.jsonl", rows)
    write_rows(bank / "test.jsonl", rows[:4])
    _write_card(bank, {"default": {"train": "train.jsonl", "test": "test.jsonl"}})
    return folder


def _write_scifact(folder: Path) -> None:
    documents = ["the quick brown fox", "layers of a language model", "return the number of rows", "birds sing in spring"]
    write_rows(folder / "corpus.jsonl", [{"_id": str(i), "title": "", "text": text} for i, text in enumerate(documents)])
    write_rows(
        folder / "queries.jsonl", [{"_id": "a", "text": "the quick brown fox"}, {"_id": "b", "text": "birds sing in spring"}]
    )
    judgements = [("a", "0"), ("b", "3")]
    write_rows(folder / "qrels.jsonl", [{"query-id": q, "corpus-id": d, "score": 1} for q, d in judgements])
    _write_card(
        folder,
        {"default": {"test": "qrels.jsonl"}, "corpus": {"corpus": "corpus.jsonl"}, "queries": {"queries": "queries.jsonl"}},
    )


def _write_card(folder: Path, configs: Mapping[str, Mapping[str, str]]) -> None:
    lines = ["---", "configs:"]
    for name, files in configs.items():
        lines += [f"- config_name: {name}", *(["  default: true"] if name == "default" else []), "  data_files:"]
        for split, path in files.items():
            lines += [f"  - split: {split}", f"    path: {path}"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")
