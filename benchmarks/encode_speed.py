"""Texts a second: prune2vec's engine against SentenceTransformer.encode, same encoder, same texts, same number format.

sentence-transformers gets the batch size that is fastest for it in a trial of its own. Both sides then take turns
(A B A B); the ratio is the median over the rounds, and the largest difference of any vector component stands beside it.
Texts are from Python's own documentation.

python benchmarks/encode_speed.py --encoder ENCODER --rounds 5 --out benchmarks/results/encode-speed.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformer

from prune2vec.checkpoint import load_encoder
from prune2vec.encoding import Engine
from prune2vec.evaluation.speed import builtin_sample
from prune2vec.machine import describe

BATCH_SIZES = (8, 16, 32, 64, 128)


def workloads(seed: int = 42) -> dict[str, list[str]]:
    """Return short queries, a mix of all lengths, and passages that fill 512 tokens."""
    queries, documents = builtin_sample()
    draw = random.Random(seed)
    sentences = " ".join(documents).split(". ")
    mixed = [". ".join(draw.choices(sentences, k=draw.choice((1, 1, 2, 3, 5, 8, 13)))) for _ in range(256)]
    long = [" ".join(documents[start : start + 4]) for start in range(0, 96, 4)]
    return {"short queries": draw.choices(queries, k=512), "mixed texts": mixed, "512-token passages": long}


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def compared(encoder: SentenceTransformer, engine: Engine, texts: list[str], *, rounds: int) -> dict[str, Any]:
    """Return the speed of both sides on ``texts``."""
    best = min(BATCH_SIZES, key=lambda size: timed(lambda: encoder.encode(texts, batch_size=size)))
    pairs = [
        (timed(lambda: encoder.encode(texts, batch_size=best)), timed(lambda: engine.encode(texts))) for _ in range(rounds)
    ]
    theirs, ours = zip(*pairs, strict=True)
    ratios = [their / our for their, our in pairs]
    return {
        "texts": len(texts),
        "tokens": sum(map(len, engine.tokenise(texts))),
        "batch size": best,
        "sentence-transformers": round(len(texts) / statistics.median(theirs), 2),
        "prune2vec": round(len(texts) / statistics.median(ours), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "largest difference": float(np.abs(encoder.encode(texts, batch_size=best) - engine.encode(texts)).max()),
    }


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print one row a workload."""
    print("| texts | sentence-transformers, texts/s | prune2vec, texts/s | ratio | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        cells = (row["sentence-transformers"], row["prune2vec"], f"{row['ratio']:.2f}", f"{row['largest difference']:.0e}")
        print(f"| {row['texts']} {name} | {' | '.join(map(str, cells))} |")


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    encoder = load_encoder(options.encoder, device="cpu", dtype=options.dtype)
    encoder.max_seq_length = 512
    engine = Engine(encoder, token_budget=options.token_budget)
    rows = {name: compared(encoder, engine, texts, rounds=options.rounds) for name, texts in workloads().items()}
    print_table(rows)
    settings = {"dtype": options.dtype, "rounds": options.rounds, "token_budget": options.token_budget}
    result = {"settings": settings, "encoder": options.encoder.name, "workloads": rows, "environment": describe()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
