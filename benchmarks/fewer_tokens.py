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

    def vectors(places: list[int]) -> list[tuple[Any, Any]]:
        found = [texts[place] for place in places[:COMPARED]]
        return [(whole.encode(text, show_progress_bar=False), cut.encode(text, show_progress_bar=False)) for text in found]

    differences = [float(np.abs(first - second).max()) for first, second in vectors(same)]
    cosines = sorted(round(float(first @ second), 4) for first, second in vectors(others))
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
        "compared_unchanged": len(differences),
        "largest_difference_unchanged": max(differences, default=None),
        "compared_changed": len(cosines),
        "cosine_changed": {"least": min(cosines, default=None), "median": statistics.median(cosines) if cosines else None},
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
    encoders: list[Any] = [
        SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": "float32"}) for folder in folders
    ]
    whole, cut = encoders
    result: dict[str, Any] = {
        "plan": json.loads((options.cut / "prune2vec.json").read_text(encoding="utf-8"))["plan"],
        "parameters": [sum(one.numel() for one in encoder.parameters()) for encoder in encoders],
        "tokens": [encoder[0].auto_model.config.vocab_size for encoder in encoders],
        "weights_bytes": [(folder / "model.safetensors").stat().st_size for folder in folders],
        "tokenizer_bytes": [(folder / "tokenizer.json").stat().st_size for folder in folders],
        "texts": {
            path.name: measure(whole, cut, [one.text for one in islice(read_texts(path), options.most)])
            for path in options.texts
        },
    }
    write_result(options.out, result)
    rows = [(name, *map(str, found.values())) for name, found in result["texts"].items()]
    print(markdown_table(("texts", *next(iter(result["texts"].values()))), rows))


if __name__ == "__main__":
    main()
