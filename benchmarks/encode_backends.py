"""Texts a second of sentence-transformers' backends and of prune2vec's engine, in float32 on the CPU.

ONNX and OpenVINO go through optimum, which needs an older transformers than this project, so each runs in a Python
environment of its own, told by its interpreter:

    python -m venv onnx     && onnx/bin/pip install 'sentence-transformers[onnx]'
    python -m venv openvino && openvino/bin/pip install 'sentence-transformers[openvino]'
    python benchmarks/encode_backends.py --encoder ENCODER --onnx onnx/bin/python --openvino openvino/bin/python \\
        --out benchmarks/results/encode-backends.json

Every process loads the same folder and gets the same texts; only one computes at a time, and they take turns. A backend
that does not load, or fails on the texts, stands in the table with its reason.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from common import markdown_table, write_result
from encode_peer import Peer, PeerFailed
from encode_speed import MAX_LENGTH, best_batch_size, compared, vectors_of, workloads

from prune2vec.encoding.engine import Engine
from prune2vec.machine import keep_freed_memory
from prune2vec.pruning.encoder import load_encoder

# Beyond this the vectors are not those of the encoder.
TOLERANCE = 1e-3
PROBE = ["a short text", "another one, which is a little longer than the first"]


def started(options: argparse.Namespace, backend: str, engine: Engine, stack: ExitStack) -> tuple[Peer, str]:
    """Return a peer that encodes, and what it took to get it there.

    Decoders are exported with positions as an input, which the libraries behind both backends do not pass: ONNX Runtime
    then refuses to run, OpenVINO computes with whatever the memory holds. Such a backend gets them from us.

    Raises:
        PeerFailed: It does not load, or does not run.
    """
    trouble = ""
    try:
        peer = stack.enter_context(_peer(options, backend))
        if (off := _off(peer, PROBE, engine)) <= TOLERANCE:
            return peer, ""
        trouble = f"its vectors are off by {off:.1e} (nan: not finite), without a warning"
        peer.close()
    except PeerFailed as error:
        if backend == "torch" or "position_ids" not in str(error):
            raise
        trouble = str(error)
    peer = stack.enter_context(_peer(options, backend, give_positions=True))
    return peer, f"as it is: {trouble}; measured with positions passed by us, then off by {_off(peer, PROBE, engine):.1e}"


def _peer(options: argparse.Namespace, backend: str, *, give_positions: bool = False) -> Peer:
    python = {"onnx": options.onnx, "openvino": options.openvino}.get(backend)
    return Peer(options.encoder, python=python, backend=backend, max_length=MAX_LENGTH, give_positions=give_positions)


def _off(peer: Peer, texts: list[str], engine: Engine) -> float:
    peer.take(texts)
    return float(np.abs(vectors_of(peer, len(texts)) - engine.encode(texts)).max())


def print_rows(rows: dict[str, dict[str, Any]], notes: dict[str, str]) -> None:
    """Print one row a workload and side, then what there is to say about the sides."""
    lines = []
    for name, row in rows.items():
        for side, speed in row["texts_per_s"].items():
            size = row["batch sizes"].get(side, "by tokens")
            difference = row["largest difference"].get(side)
            cells = ("", "") if difference is None else (f"{row['ratio'][side]:.2f}", f"{difference:.0e}")
            lines.append((f"{row['texts']} {name}", side, size, speed, *cells))
    for side, note in notes.items():
        print(f"{side}: {note}")
    print(markdown_table(("texts", "side", "batch size", "texts/s", "prune2vec is faster by", "largest difference"), lines))


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, help="Python of an environment with sentence-transformers' ONNX backend")
    parser.add_argument("--openvino", type=Path, help="Python of an environment with its OpenVINO backend")
    parser.add_argument("--only", choices=tuple(workloads()), help="one of the workloads")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=32, help="so many texts of each workload")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    model = load_encoder(options.encoder, device="cpu", dtype="float32")
    model.max_seq_length = MAX_LENGTH
    engine = Engine(model)
    rows: dict[str, dict[str, Any]] = {}
    notes: dict[str, str] = {}
    with ExitStack() as stack:
        peers: dict[str, Peer] = {}
        for backend in ("torch", *(name for name in ("onnx", "openvino") if getattr(options, name) is not None)):
            try:
                peers[backend], note = started(options, backend, engine, stack)
            except PeerFailed as error:
                note = str(error)
            notes |= {backend: note} if note else {}
        for name, texts in workloads().items():
            if options.only in (None, name):
                chosen = texts[: options.texts]
                sizes = {backend: best_batch_size(peer, chosen) for backend, peer in peers.items()}
                both = {backend: (peer, sizes[backend]) for backend, peer in peers.items()}
                rows[name] = {**compared(both, engine, chosen, rounds=options.rounds), "batch sizes": sizes}
        versions = {backend: peer.versions for backend, peer in peers.items()}
    settings = {"dtype": "float32", "rounds": options.rounds, "token_budget": engine.token_budget}
    result = {"settings": settings, "encoder": str(options.encoder), "peers": versions, "notes": notes, "workloads": rows}
    write_result(options.out, result)
    print_rows(rows, notes)


if __name__ == "__main__":
    main()
