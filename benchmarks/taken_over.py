"""Encoders taken over whole: vectors of each and of its uncut prune, by every way and prompt of plain sentence-transformers, in fp32.

Each encoder is pruned to all of its layers. Both are loaded in sentence-transformers and encode the same texts with ``encode``,
``encode_query``, ``encode_document`` and under every prompt that the encoder has; what is written is the largest difference of any
component by way. It ends with 1 where one is above 1e-5.

python benchmarks/taken_over.py ENCODER... --texts HELD_OUT --out benchmarks/results/taken-over.json
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from common import markdown_table, write_result
from sentence_transformers import SentenceTransformer

import prune2vec
from prune2vec.data.plain_texts import read_texts

MOST = 1e-5


def vectors_of(encoder: Any, texts: list[str]) -> dict[str, Any]:
    """Return an encoder's vectors by way of encoding, the prompts among them."""
    ways: dict[str, Any] = {"encode": encoder.encode, "query": encoder.encode_query, "document": encoder.encode_document}
    found = {name: way(texts, show_progress_bar=False) for name, way in ways.items()}
    return found | {
        f"prompt {name}": encoder.encode(texts, prompt_name=name, show_progress_bar=False) for name in encoder.prompts
    }


def load(folder: Path) -> Any:
    """Load in plain sentence-transformers."""
    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"})


def main() -> None:
    """Prune, encode by both, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoders", type=Path, nargs="+", help="folders")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--most", type=int, default=32, help="texts")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    texts = [one.text for one in islice(read_texts(given.texts), given.most)]
    found: dict[str, dict[str, float]] = {}
    for folder in given.encoders:
        encoder = load(folder)
        source = vectors_of(encoder, texts)
        with tempfile.TemporaryDirectory() as work:
            layers = encoder[0].auto_model.config.num_hidden_layers
            pruned = vectors_of(load(prune2vec.prune(folder, layers, output=Path(work) / "uncut")), texts)
        if source.keys() != pruned.keys():
            raise SystemExit(f"{folder} has {', '.join(source)}, and uncut {', '.join(pruned)}")
        found[folder.name] = {way: float(np.abs(vectors - pruned[way]).max()) for way, vectors in source.items()}
    write_result(given.out, {"texts": len(texts), "of": given.texts.name, "largest_difference": found})
    rows = [(name, str(len(of)), max(of, key=of.__getitem__), f"{max(of.values()):.1g}") for name, of in found.items()]
    print(markdown_table(("encoder", "ways and prompts", "furthest", "largest difference"), rows))
    raise SystemExit(int(max(largest for of in found.values() for largest in of.values()) > MOST))


if __name__ == "__main__":
    main()
