"""What a cut of the vocabulary does: an encoder with all tokens beside one with fewer, both of the same layers, on held-out texts.

Both are loaded in plain sentence-transformers and fp32. Texts all of whose tokens stay are encoded one at a time with both, and
their vectors compared entry by entry; all texts are encoded with both in turn, and timed.

python benchmarks/fewer_tokens.py WHOLE CUT --texts HELD_OUT... --out benchmarks/results/fewer-tokens.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from common import markdown_table, write_result

COMPARED, TIMED, ROUNDS = 100, 96, 3


def measure(whole: Any, cut: Any, texts: list[str]) -> dict[str, object]:
    """Return shares, differences and times of two encoders on the same texts."""
    stay = set(cut.tokenizer.get_vocab())
    rows = [encoder.tokenizer(texts, truncation=True, max_length=whole.max_seq_length)["input_ids"] for encoder in (whole, cut)]
    tokens = [whole.tokenizer.convert_ids_to_tokens(ids) for ids in rows[0]]
    same = [place for place, row in enumerate(tokens) if stay.issuperset(row)]
    others = [place for place, row in enumerate(tokens) if not stay.issuperset(row)]
    if any(cut.tokenizer.convert_ids_to_tokens(rows[1][place]) != tokens[place] for place in same):
        raise SystemExit("a text all of whose tokens stay has other tokens after the cut")

    def vectors(places: list[int]) -> list[Any]:
        """Return the vectors of both encoders, a row of zeros before them, so that there are some."""
        found = [
            [encoder.encode(texts[place], show_progress_bar=False) for place in places[:COMPARED]] for encoder in (whole, cut)
        ]
        return [np.stack([np.zeros(whole.get_embedding_dimension()), *rows]) for rows in found]

    unchanged, changed = vectors(same), vectors(others)
    seconds: list[list[float]] = [[], []]
    timed = texts[:TIMED]
    for _ in range(ROUNDS):
        for encoder, found in zip((whole, cut), seconds, strict=True):
            begin = time.perf_counter()
            encoder.encode(timed, batch_size=32, show_progress_bar=False)
            found.append(time.perf_counter() - begin)
    return {
        "texts": len(texts),
        "changed_share": round(len(others) / len(texts), 4),
        "tokens_per_text": [round(statistics.fmean(map(len, of_one)), 2) for of_one in rows],
        "compared_unchanged": len(unchanged[0]) - 1,
        "largest_difference_unchanged": float(np.abs(unchanged[0] - unchanged[1]).max()),
        "compared_changed": len(changed[0]) - 1,
        "cosine_changed": [
            round(float(value), 4) for value in np.quantile((changed[0] * changed[1]).sum(1)[1:], (0, 0.05, 0.5))
        ],
        "texts_per_second": [round(len(timed) / statistics.median(found), 1) for found in seconds],
    }


def main() -> None:
    """Load both, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whole", type=Path)
    parser.add_argument("cut", type=Path)
    parser.add_argument("--texts", type=Path, nargs="+", required=True)
    parser.add_argument("--most", type=int, default=10_000, help="texts of each file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    from prune2vec.data.plain_texts import read_texts

    folders = [options.whole, options.cut]
    whole, cut = (SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"}) for folder in folders)
    result: dict[str, Any] = {
        "plan": json.loads((options.cut / "prune2vec.json").read_text(encoding="utf-8"))["plan"],
        "parameters": [sum(one.numel() for one in encoder.parameters()) for encoder in (whole, cut)],
        "tokens": [encoder[0].auto_model.config.vocab_size for encoder in (whole, cut)],
        "weights_bytes": [(folder / "model.safetensors").stat().st_size for folder in folders],
        "tokenizer_bytes": [(folder / "tokenizer.json").stat().st_size for folder in folders],
        "texts": {path.name: measure(whole, cut, list(islice(read_texts(path), options.most))) for path in options.texts},
    }
    write_result(options.out, result)
    rows = [(name, *map(str, found.values())) for name, found in result["texts"].items()]
    print(markdown_table(("texts", *next(iter(result["texts"].values()))), rows))


if __name__ == "__main__":
    main()
