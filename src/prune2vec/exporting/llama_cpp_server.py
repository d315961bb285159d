"""Run as a program of its own: the vectors that llama.cpp makes of texts, by its binding xllamacpp and without any flag.

A model that llama.cpp does not take may end the process that asked for it, so prune2vec starts another one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(request: Path) -> None:
    """Read ``model``, ``texts`` and ``tokens`` (of the longest text) from a JSON file, and put the vectors in its place."""
    import xllamacpp

    asked = json.loads(request.read_text(encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.embedding = True
    # Room for the longest text in one go, and nothing that changes a vector: pooling and direction are the file's.
    params.n_ctx = params.n_batch = params.n_ubatch = asked["tokens"]
    params.n_parallel, params.warmup = 1, False
    server = xllamacpp.Server(params)
    answers = [server.handle_embeddings({"input": [text]}) for text in asked["texts"]]
    request.write_text(json.dumps([answer["data"][0]["embedding"] for answer in answers]), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
