"""An encoder's ONNX exports in fp32, fp16 and int8 beside prune2vec's engine in fp32 and bf16: size, texts a second, nDCG@10.

The exports are run by sentence-transformers, whose ONNX backend needs an older transformers than this project, in a Python
environment of its own:

    python -m venv onnx && onnx/bin/pip install 'sentence-transformers[onnx]'
    python benchmarks/onnx_precision.py --encoder ENCODER --data NFCorpus --onnx onnx/bin/python --work runs/onnx \
        --out benchmarks/results/onnx-precision.json

Every process loads before the first is timed; only one computes at a time, and they take turns (A B A B) on some of the documents,
the exports with the batch size that is fastest for each in a trial beforehand. Then each encodes the whole task, a folder in BEIR's
layout, without prompts; ``--queries`` and ``--documents`` take a part of it, as bf16 is slow on processors without it. Texts are cut at
``--max-length`` tokens.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import abab, human_bytes, write_result
from encode_peer import Peer
from encode_precision import cosines, ndcg
from encode_speed import best_batch_size, vectors_of
from torch import Tensor

from prune2vec.data.beir import Retrieval
from prune2vec.encoding.engine import Engine
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.retrieval import load_retrieval, sample_retrieval
from prune2vec.experiments.comparison import TextTable
from prune2vec.exporting.export import export_encoder
from prune2vec.machine import keep_freed_memory
from prune2vec.pruning.encoder import load_encoder

DTYPES = ("float32", "bfloat16")
PRECISIONS = ("fp32", "fp16", "int8")
FIGURES = (("ratio", 2), ("ndcg_at_10", 4), ("mean_cosine", 4), ("worst_cosine", 4))


def loaded(folder: Path, dtype: str, max_length: int) -> Engine:
    """Return prune2vec's engine on the CPU."""
    encoder = load_encoder(folder, device="cpu", dtype=dtype)
    encoder.max_seq_length = max_length
    return Engine(encoder)


def from_peer(peer: Peer, batch_size: int, texts: list[str]) -> Any:
    """Return the vectors that another process makes of texts."""
    peer.take(texts)
    return vectors_of(peer, batch_size)


def weights(folder: Path) -> int:
    """Return the size of what holds an encoder's or an export's weights, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.suffix == ".safetensors" or file.parent.name == "onnx")


def measured(options: argparse.Namespace, retrieval: Retrieval) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return size, speed and scores of each side, and the versions of the exports' environment."""
    task = {"queries": list(retrieval.queries.values()), "documents": list(retrieval.corpus.values())}
    timed = random.Random(options.seed).sample(task["documents"], min(options.texts, len(task["documents"])))
    encode: dict[str, Callable[[list[str]], Any]] = {}
    work: dict[str, Callable[[], object]] = {}
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        for dtype in DTYPES:
            name, engine = f"prune2vec {dtype}", loaded(options.encoder, dtype, options.max_length)
            encode[name], work[name] = engine.encode, partial(engine.encode, timed)
            rows[name] = {"bytes": weights(options.encoder)}
        for precision in PRECISIONS:
            name, folder = f"ONNX {precision}", options.work / precision
            export_encoder(options.encoder, target="onnx", precision=precision, output=folder, force=True)
            peer = stack.enter_context(Peer(folder, python=options.onnx, backend="onnx", max_length=options.max_length))
            size = best_batch_size(peer, timed)
            peer.take(timed)
            encode[name], work[name] = partial(from_peer, peer, size), partial(peer.encode, size)
            rows[name] = {"bytes": weights(folder), "batch_size": size}
        for name, side in abab(work, options.rounds).items():
            rows[name] |= {"texts_per_s": len(timed) / side["median"], "ratio": side["ratio"], "seconds": side["seconds"]}
        exact: dict[str, Tensor] = {}
        for name, of in encode.items():
            found = {side: torch.as_tensor(of(texts)).float() for side, texts in task.items()}
            exact = exact or found
            near = cosines(found["documents"], exact["documents"])
            rows[name] |= {"ndcg_at_10": ndcg(found["queries"], found["documents"], retrieval, seed=options.seed)}
            rows[name] |= {"mean_cosine": float(near.mean()), "worst_cosine": float(near.min())}
        return rows, peer.versions


def table_of(rows: dict[str, dict[str, Any]]) -> TextTable:
    """Return one row a side; ratios are to the first."""
    cells = tuple(
        (
            name,
            human_bytes(row["bytes"]),
            str(row.get("batch_size", "by tokens")),
            f"{row['texts_per_s']:.1f}",
            *(f"{row[what]:.{digits}f}" for what, digits in FIGURES),
        )
        for name, row in rows.items()
    )
    return TextTable(("", "weights", "batch size", "texts/s", "ratio", "nDCG@10", "mean cosine to fp32", "worst"), cells)


def main() -> None:
    """Export, measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--onnx", type=Path, required=True, help="Python of an environment with sentence-transformers' ONNX backend"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the exports")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--texts", type=int, default=256, help="so many documents are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, help="draw so many of the task's queries")
    parser.add_argument("--documents", type=int, help="draw so many of its documents, all relevant ones among them")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    settings = EvaluateSettings(max_queries=options.queries, max_documents=options.documents, seed=options.seed)
    retrieval, note = sample_retrieval(load_retrieval(options.data, settings), settings)
    rows, versions = measured(options, retrieval)
    table = table_of(rows)
    kept = {name: getattr(options, name) for name in ("max_length", "texts", "rounds", "seed")}
    about = {"encoder": options.encoder.name, "data": f"{options.data.name} {note}".strip(), "peer": versions, "settings": kept}
    write_result(options.out, {**about, "rows": rows, "table": {"header": table.header, "rows": table.rows}})
    print(table.to_markdown())


if __name__ == "__main__":
    main()
