"""Texts a second: prune2vec's engine against SentenceTransformer.encode, same encoder, same texts, same number format.

sentence-transformers runs in a process of its own: with its default batch size of 32, with the batch size that is fastest
for it on these texts in a trial beforehand, and, in a second process that keeps the memory it frees as
``prune2vec encode`` does on Linux, with the batch size that is fastest there. The sides take turns (A B C D A B C D); a
ratio is the median over the rounds. The largest difference of any vector component stands beside it.
``--usual-allocator`` lets no process keep its memory. Texts are from Python's own documentation, or one a line from
``--texts``.

python benchmarks/encode_speed.py --encoder ENCODER --out benchmarks/results/encode-speed.json
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import abab, markdown_table, synchronised, write_result
from encode_peer import Peer

from prune2vec.encoding.engine import Engine
from prune2vec.evaluation.speed import builtin_sample
from prune2vec.machine import keep_freed_memory
from prune2vec.pruning.encoder import load_encoder, read_record

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
DEFAULT_BATCH_SIZE = 32
# The best batch size is looked for on so many of the texts, each size twice.
TRIAL_TEXTS = 32
TRIES = 2
MAX_LENGTH = 512
OURS = "prune2vec"
DEFAULT, BEST, BEST_KEEPING = "default", "best batch size", "best, keeping memory"


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
    sides: dict[str, Callable[[], object]] = {name: partial(peer.encode, size) for name, (peer, size) in peers.items()}
    measured = abab({**sides, OURS: synchronised(lambda: engine.encode(texts))}, rounds)
    ours, own = measured[OURS]["seconds"], engine.encode(texts)
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
    peers = list(next(iter(rows.values()))["ratio"])
    header = ("texts", *(f"ST, {peer}" for peer in peers), OURS, *(f"ratio to {peer}" for peer in peers), "largest difference")
    lines = []
    for name, row in rows.items():
        speeds = [f"{row['texts_per_s'][peer]} ({row['batch sizes'][peer]})" for peer in peers]
        ratios = [f"{row['ratio'][peer]:.2f}" for peer in peers]
        difference = f"{max(row['largest difference'].values()):.0e}"
        lines.append((f"{row['texts']} {name}", *speeds, row["texts_per_s"][OURS], *ratios, difference))
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
    with ExitStack() as stack:

        def started(keep_memory: bool) -> Peer:
            peer = Peer(options.encoder, dtype=options.dtype, max_length=MAX_LENGTH, device=device, keep_memory=keep_memory)
            return stack.enter_context(peer)

        tuned = {BEST: started(False), **({BEST_KEEPING: started(True)} if kept else {})}
        for name, texts in chosen.items():
            if options.only in (None, name):
                sizes = {DEFAULT: DEFAULT_BATCH_SIZE, **{side: best_batch_size(peer, texts) for side, peer in tuned.items()}}
                sides = {side: (tuned.get(side, tuned[BEST]), size) for side, size in sizes.items()}
                rows[name] = {**compared(sides, engine, texts, rounds=options.rounds), "batch sizes": sizes}
                print(f"{name}: {rows[name]['ratio']}", file=sys.stderr)
    settings = {"dtype": options.dtype, "rounds": options.rounds, "token_budget": engine.token_budget, "keeps_memory": kept}
    about = {"encoder": options.encoder.name, "keep_layers": read_record(options.encoder).get("keep_layers"), "device": device}
    write_result(options.out, {"settings": settings, **about, "workloads": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
