"""Texts a second: prune2vec's engine against SentenceTransformer.encode, same encoder, same texts, same number format.

sentence-transformers runs in a process of its own, with the batch size that is fastest for it on these texts in a trial
beforehand, and once more with its default of 32. The sides take turns (A B C A B C); a ratio is the median over the
rounds. The largest difference of any vector component stands beside it. This process keeps the memory it frees, as
``prune2vec encode`` does on Linux; ``--usual-allocator`` leaves that out. Texts are from Python's own documentation, or
one a line from ``--texts``.

python benchmarks/encode_speed.py --encoder ENCODER --out benchmarks/results/encode-speed.json
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import abab, markdown_table, synchronised, write_result
from encode_peer import Peer

from prune2vec.checkpoint import load_encoder
from prune2vec.checkpoint.encoder import read_record
from prune2vec.encoding import Engine
from prune2vec.encoding.allocator import keep_freed_memory
from prune2vec.evaluation.speed import builtin_sample

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
DEFAULT_BATCH_SIZE = 32
# The best batch size is looked for on so many of the texts, each size twice.
TRIAL_TEXTS = 64
TRIES = 2
MAX_LENGTH = 512


def workloads(seed: int = 42) -> dict[str, list[str]]:
    """Return short queries, a mix of all lengths, and passages that fill 512 tokens; no text twice."""
    queries, documents = builtin_sample()
    draw = random.Random(seed)
    sentences = " ".join(documents).split(". ")
    mixed = [". ".join(draw.choices(sentences, k=draw.choice((1, 1, 2, 3, 5, 8, 13)))) for _ in range(64)]
    long = [" ".join(documents[start : start + 4]) for start in range(0, 32, 4)]
    return {"short queries": draw.sample(sorted(set(queries)), 150), "mixed texts": mixed, "512-token passages": long}


def own_texts(path: Path) -> dict[str, list[str]]:
    """Return the lines of a file as the one workload."""
    # Equal texts are computed once here, and each time there.
    return {path.name: [line for line in dict.fromkeys(path.read_text(encoding="utf-8").splitlines()) if line.strip()]}


def best_batch_size(peer: Peer, texts: Sequence[str], *, seed: int = 0) -> int:
    """Return the batch size at which the peer is fastest on some of the texts."""
    trial = random.Random(seed).sample(list(texts), min(len(texts), TRIAL_TEXTS))
    peer.take(trial)
    peer.encode(DEFAULT_BATCH_SIZE)
    # Above the number of texts all sizes are one batch.
    sizes = [size for size in BATCH_SIZES if size // 2 < len(trial)]
    return min(sizes, key=lambda size: min(peer.encode(size) for _ in range(TRIES)))


def vectors_of(peer: Peer, batch_size: int) -> np.ndarray:
    """Return the vectors that the peer makes of its texts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.npy"
        peer.encode(batch_size, save=file)
        found: np.ndarray = np.load(file)
        return found


def compared(peers: Mapping[str, tuple[Peer, int]], engine: Engine, texts: list[str], *, rounds: int) -> dict[str, Any]:
    """Return texts/s of every side, the engine's ratio to each peer, and how far their vectors are from the engine's.

    Args:
        peers: Peer and batch size by name.
        engine: Ours.
        texts: What to encode.
        rounds: Timed rounds.
    """
    for peer in {id(peer): peer for peer, _ in peers.values()}.values():
        peer.take(texts)
    sides: dict[str, Callable[[], object]] = {
        name: (lambda peer=peer, size=size: peer.encode(size)) for name, (peer, size) in peers.items()
    }
    measured = abab({**sides, "prune2vec": synchronised(lambda: engine.encode(texts))}, rounds)
    ours, own = measured["prune2vec"]["seconds"], engine.encode(texts)
    row: dict[str, Any] = {
        "texts": len(texts),
        "tokens": sum(map(len, engine.tokenise(texts))),
        "texts_per_s": {name: round(len(texts) / side["median"], 2) for name, side in measured.items()},
        "seconds": {name: side["seconds"] for name, side in measured.items()},
        "ratio": {},
        "largest difference": {},
    }
    for name, (peer, size) in peers.items():
        row["ratio"][name] = round(statistics.median(t / o for t, o in zip(measured[name]["seconds"], ours, strict=True)), 3)
        row["largest difference"][name] = float(np.abs(vectors_of(peer, size) - own).max())
    return row


def table(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return one row a workload."""
    header = (
        "texts",
        "ST at its best batch size",
        "ST at 32",
        "prune2vec",
        "ratio to best",
        "ratio to 32",
        "largest difference",
    )
    lines = []
    for name, row in rows.items():
        speed, ratio = row["texts_per_s"], row["ratio"]
        lines.append(
            (
                f"{row['texts']} {name}",
                f"{speed['best']} ({row['batch size']})",
                speed["default"],
                speed["prune2vec"],
                f"{ratio['best']:.2f}",
                f"{ratio['default']:.2f}",
                f"{max(row['largest difference'].values()):.0e}",
            )
        )
    return markdown_table(header, lines)


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--texts", type=Path, help="your own texts, one a line")
    parser.add_argument("--only", choices=tuple(workloads()), help="one of the workloads")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--token-budget", type=int, help="tokens of a forward pass; unset takes the engine's default")
    parser.add_argument("--usual-allocator", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    kept = not options.usual_allocator and keep_freed_memory()
    encoder = load_encoder(options.encoder, dtype=options.dtype)
    encoder.max_seq_length = MAX_LENGTH
    engine = Engine(encoder, token_budget=options.token_budget)
    chosen = own_texts(options.texts) if options.texts else workloads()
    rows = {}
    device = str(encoder.device)
    with Peer(options.encoder, dtype=options.dtype, max_length=MAX_LENGTH, device=device) as peer:
        for name, texts in chosen.items():
            if options.only in (None, name):
                best = best_batch_size(peer, texts)
                row = compared(
                    {"best": (peer, best), "default": (peer, DEFAULT_BATCH_SIZE)}, engine, texts, rounds=options.rounds
                )
                rows[name] = {**row, "batch size": best}
    settings = {"dtype": options.dtype, "rounds": options.rounds, "token_budget": engine.token_budget, "keeps_memory": kept}
    about = {"encoder": options.encoder.name, "keep_layers": read_record(options.encoder).get("keep_layers"), "device": device}
    write_result(options.out, {"settings": settings, **about, "workloads": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
