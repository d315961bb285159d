"""What bfloat16 does to the vectors, and to retrieval: prune2vec's engine and sentence-transformers, each against float32.

Queries are the short texts, documents the long ones. For both it prints the mean and the worst cosine of a bfloat16
vector to the float32 vector of the same text, from the engine (which pools in float32) and from
``SentenceTransformer.encode``, and nDCG@10 of the whole task, where queries are in bfloat16 alone, documents alone, or both.

python benchmarks/encode_precision.py --encoder ENCODER --data SciFact --out benchmarks/results/encode-precision.json

``--data`` is a folder in BEIR's layout; queries and documents are drawn from it (all relevant ones are among them).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import markdown_table, write_result
from torch import Tensor

from prune2vec.data.beir import Retrieval
from prune2vec.evaluation.evaluate_settings import EvaluateSettings
from prune2vec.evaluation.evaluated import Side, encode_texts, load_for_evaluation
from prune2vec.evaluation.retrieval import load_retrieval, rank_all, retrieval_metrics, sample_retrieval, self_documents

Vectors = dict[str, Tensor]


def vectors_of(encoder: Path, retrieval: Retrieval, *, dtype: str, stock: bool, settings: EvaluateSettings) -> Vectors:
    """Return the vectors of queries and documents, (text, dim) float32 each."""
    loaded = load_for_evaluation(encoder, settings.model_copy(update={"dtype": dtype}))
    if stock:
        loaded = replace(loaded, engine=None)
    elif loaded.engine is None:
        raise SystemExit("the engine does not take this encoder")
    sides: dict[Side, list[str]] = {"queries": list(retrieval.queries.values()), "documents": list(retrieval.corpus.values())}
    return {side: encode_texts(loaded, texts, side, batch_size=settings.batch_size) for side, texts in sides.items()}


def cosines(vectors: Tensor, exact: Tensor) -> Tensor:
    """Return the cosine of each vector to the exact one, (text,), in float64."""
    return torch.nn.functional.cosine_similarity(vectors.double(), exact.double(), dim=1)


def ndcg(queries: Tensor, documents: Tensor, retrieval: Retrieval, *, seed: int) -> float:
    """Return nDCG@10 by the dot product of normalised vectors."""
    left, right = (torch.nn.functional.normalize(side.double(), dim=1) for side in (queries, documents))
    ranking = rank_all(
        list(retrieval.queries),
        list(retrieval.corpus),
        lambda block: left[block] @ right.T,
        same=self_documents(retrieval),
        seed=seed,
    )
    return retrieval_metrics(ranking, retrieval.qrels)["ndcg@10"]


def row_of(found: Vectors, exact: Vectors, retrieval: Retrieval, *, seed: int) -> dict[str, Any]:
    """Return cosines and scores of one way to encode."""
    row: dict[str, Any] = {}
    for side in ("queries", "documents"):
        values = cosines(found[side], exact[side])
        row[side] = {"mean": float(values.mean()), "worst": float(values.min())}
    for name, queries, documents in (("both", found, found), ("queries only", found, exact), ("documents only", exact, found)):
        row[f"ndcg_at_10, {name}"] = ndcg(queries["queries"], documents["documents"], retrieval, seed=seed)
    return row


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=80)
    parser.add_argument("--documents", type=int, default=120)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    settings = EvaluateSettings(
        batch_size=16,
        device=options.device,
        max_length=options.max_length,
        max_queries=options.queries,
        max_documents=options.documents,
        seed=options.seed,
    )
    retrieval, note = sample_retrieval(load_retrieval(options.data, settings), settings)
    exact = vectors_of(options.encoder, retrieval, dtype="float32", stock=False, settings=settings)
    rows = {"float32": row_of(exact, exact, retrieval, seed=options.seed)}
    for name, stock in ((f"prune2vec {options.dtype}", False), (f"sentence-transformers {options.dtype}", True)):
        found = vectors_of(options.encoder, retrieval, dtype=options.dtype, stock=stock, settings=settings)
        rows[name] = row_of(found, exact, retrieval, seed=options.seed)
    result = {"encoder": str(options.encoder), "data": f"{options.data.name} {note}".strip(), "rows": rows}
    write_result(options.out, result)
    header = (
        "",
        "queries: mean cosine",
        "worst",
        "documents: mean cosine",
        "worst",
        "nDCG@10",
        "queries only",
        "documents only",
    )
    cells = [
        (
            name,
            *(f"{row[side][what]:.5f}" for side in ("queries", "documents") for what in ("mean", "worst")),
            *(f"{row[f'ndcg_at_10, {which}']:.4f}" for which in ("both", "queries only", "documents only")),
        )
        for name, row in rows.items()
    ]
    print(f"{options.data.name} {note}")
    print(markdown_table(header, cells))


if __name__ == "__main__":
    main()
