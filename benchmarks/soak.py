"""A soak of ``prune2vec encode``: a million short texts, the process killed at random moments, its memory watched.

Texts are random words of seeded lengths, all different. The encoder is the first layer of SmolLM2 unless one is given.
Every second the resident memory of the encoding process is read. After a SIGKILL the same command is started again. At
the end every id must be there once and in order, parts finished before a kill must not have been touched since, and the
vectors of a random sample must be those of SentenceTransformer.encode. With --twice the whole corpus is encoded once more
without a kill, and the digest over all (id, vector bytes) must be the same.

python benchmarks/soak.py --work runs/soak --out benchmarks/results/soak.json
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from common import human_bytes, markdown_table, write_result

from prune2vec.encoding.store import MANIFEST, Store

SYLLABLES = ("ba", "der", "fin", "gor", "hul", "ki", "lam", "mo", "nes", "pra", "qui", "ros", "sta", "tun", "ver", "wi")
SAMPLE_EVERY_S = 1.0
TOLERANCE = 1e-5


@dataclass
class Watched:
    """What was seen of the processes of one encoding.

    Attributes:
        samples: (process, rows finished, resident bytes), one a second.
        peak: The kernel's own peak over all processes, in bytes.
        kills: Rows finished at each kill.
        rewritten: Parts finished before a kill whose file changed after it.
        seconds: Wall time, starts of the program included.
    """

    samples: list[tuple[int, int, int]] = field(default_factory=list)
    peak: int = 0
    kills: list[int] = field(default_factory=list)
    rewritten: int = 0
    seconds: float = 0.0


def write_texts(path: Path, count: int, seed: int) -> None:
    """Write ``count`` different texts of 3 to 12 words, one a line."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(5000)]
    seen: set[str] = set()
    with path.open("w", encoding="utf-8") as file:
        while len(seen) < count:
            text = " ".join(draw.choices(words, k=draw.randint(3, 12)))
            if text not in seen:
                seen.add(text)
                file.write(f"{text}\n")


def first_layer(folder: Path) -> Path:
    """Make an encoder of the first layer of SmolLM2."""
    from prune2vec.forward.backbone import load_backbone
    from prune2vec.planning.plan import PruningPlan
    from prune2vec.pruning.prune import prune_model

    backbone = load_backbone("smollm2", dtype="float32", device="cpu")
    plan = PruningPlan(model=backbone.identity(), shape=backbone.shape, keep_layers=(0,), method="depth")
    return prune_model("smollm2", plan, folder, max_length=64)


def encode(command: Sequence[str], folder: Path, texts: int, shares: Sequence[float], seed: int) -> Watched:
    """Run the command to its end, killed soon after each share of the rows is finished."""
    draw, watched, begin = random.Random(seed), Watched(), time.perf_counter()
    waits = [(int(share * texts), draw.random()) for share in sorted(shares)]
    parts: dict[str, tuple[int, int]] = {}
    for number in itertools.count():
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                ended = watch(process, number, folder, watched, waits[number] if number < len(waits) else None)
            except BaseException:
                process.kill()
                raise
        if ended:
            break
        found = finished_parts(folder)
        watched.kills.append(sum(rows for rows, _ in found.values()))
        watched.rewritten += changed(parts, found)
        parts = found
    watched.rewritten += changed(parts, finished_parts(folder))
    watched.seconds = time.perf_counter() - begin
    return watched


def watch(
    process: subprocess.Popen[bytes], number: int, folder: Path, watched: Watched, kill: tuple[int, float] | None
) -> bool:
    """Watch one process until it ends, or kill it; return whether it ended by itself."""
    part_seconds, since, rows = 2.0, time.perf_counter(), finished_rows(folder)
    while process.poll() is None:
        time.sleep(SAMPLE_EVERY_S)
        resident, peak = memory_of(process.pid)
        now = finished_rows(folder)
        if resident:
            watched.samples.append((number, now, resident))
            watched.peak = max(watched.peak, peak)
        if now > rows:
            part_seconds, since, rows = time.perf_counter() - since, time.perf_counter(), now
        if kill is not None and now >= kill[0]:
            # Anywhere in the next part: reading, computing, writing.
            time.sleep(kill[1] * part_seconds)
            process.kill()
            process.wait()
            return False
    if process.returncode:
        raise SystemExit(f"prune2vec encode ended with {process.returncode}")
    return True


def finished_rows(folder: Path) -> int:
    """Return the rows that the manifest names."""
    path = folder / MANIFEST
    return int(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else 0


def finished_parts(folder: Path) -> dict[str, tuple[int, int]]:
    """Return rows and time of the last change of each finished part."""
    path = folder / MANIFEST
    parts = json.loads(path.read_text(encoding="utf-8"))["parts"] if path.exists() else []
    return {part["file"]: (part["rows"], (folder / part["file"]).stat().st_mtime_ns) for part in parts}


def changed(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> int:
    """Return how many parts are not what they were."""
    return sum(1 for name, entry in before.items() if after.get(name) != entry)


def memory_of(pid: int) -> tuple[int, int]:
    """Return the resident memory of a process and its peak, in bytes; zeros when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS:", "VmHWM:"))}
    return found.get("VmRSS", 0), found.get("VmHWM", 0)


def parts_of(store: Store) -> Iterator[tuple[list[str], np.ndarray[Any, Any]]]:
    """Yield ids and vectors part by part."""
    for number in range(len(store.parts)):
        yield store.read_ids(number), np.concatenate(list(store.read_vectors(number, 10_000)))


def verify(folder: Path, corpus: Path, encoder: Path, *, sample: int, seed: int) -> dict[str, Any]:
    """Return the digest over all (id, vector), whether ids are 0 to n - 1 in order, and how far a sample is off."""
    store = Store.load(folder)
    chosen = set(random.Random(seed).sample(range(store.rows), min(sample, store.rows)))
    digest, row, in_order = hashlib.sha256(), 0, True
    kept: dict[int, np.ndarray[Any, Any]] = {}
    for ids, vectors in parts_of(store):
        in_order &= ids == [str(place) for place in range(row, row + len(ids))]
        for name, vector in zip(ids, vectors, strict=True):
            digest.update(name.encode() + b"\0" + vector.tobytes())
        kept |= {place: vectors[place - row] for place in range(row, row + len(ids)) if place in chosen}
        row += len(ids)
    from prune2vec.pruning.encoder import load_encoder

    with corpus.open(encoding="utf-8") as file:
        texts = {place: line.rstrip("\n") for place, line in enumerate(file) if place in chosen}
    rows = sorted(chosen)
    expected = load_encoder(encoder, device="cpu", dtype="float32").encode_document([texts[place] for place in rows])
    far = float(np.abs(np.stack([kept[place] for place in rows]) - expected).max())
    return {"digest": digest.hexdigest(), "rows": row, "in_order": in_order, "sample": len(rows), "largest_difference": far}


def memory_at(samples: Sequence[tuple[int, int, int]], share: float, texts: int) -> int:
    """Return the resident bytes at the first look after a share of the rows was finished (the last look for all)."""
    return next((resident for _, rows, resident in samples if rows >= share * texts), samples[-1][2])


def growth(samples: Sequence[tuple[int, int, int]]) -> float:
    """Return the memory in the last quarter of the last process's life by that in the quarter after its first part."""
    last = [(rows, resident) for number, rows, resident in samples if number == samples[-1][0]]
    working = [resident for rows, resident in last if rows > last[0][0]] or [resident for _, resident in last]
    quarter = max(1, len(working) // 4)
    return statistics.median(working[-quarter:]) / statistics.median(working[:quarter])


def main() -> None:
    """Encode, kill, verify and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for texts, encoder and vectors (about 2.5 GB)")
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--encoder", type=Path, help="folder of an encoder; default: the first layer of SmolLM2")
    parser.add_argument("--part-rows", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=2000, help="texts encoded once more by sentence-transformers")
    parser.add_argument("--twice", action="store_true", help="encode once more without kills and compare all bytes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = args.encoder or first_layer(args.work / "encoder")
    corpus = args.work / "texts.txt"
    write_texts(corpus, args.texts, args.seed)
    draw = random.Random(args.seed)
    # The last process runs over a good third of the rows, so that growth would show.
    shares = [draw.uniform(0.02, 0.6) for _ in range(args.kills)]
    runs = {"killed": shares, **({"left alone": []} if args.twice else {})}
    results = {name: one_run(args, encoder, corpus, cuts) for name, cuts in runs.items()}
    digests = {result["digest"] for result in results.values()}
    verdict = len(digests) == 1 and all(result["verdict"] for result in results.values())
    header = ["", "texts", "seconds", "texts/s", "kills", "parts", "parts written again"]
    memory = ["RSS at 10 %", "at 50 %", "at 100 %", "peak", "last / first quarter", "largest difference", "verdict"]
    print(markdown_table([*header, *memory], [line(name, result) for name, result in results.items()]))
    if args.out:
        shown = {key: value for key, value in vars(args).items() if isinstance(value, int)}
        named = {"encoder": args.encoder.name if args.encoder else "smollm2, first layer"}
        write_result(args.out, {"settings": {**shown, **named}, "runs": results})
    if not verdict:
        raise SystemExit("the soak failed: see the table")


def one_run(args: argparse.Namespace, encoder: Path, corpus: Path, shares: Sequence[float]) -> dict[str, Any]:
    """Return the figures of one encoding from an empty folder."""
    folder = args.work / "vectors"
    shutil.rmtree(folder, ignore_errors=True)
    settings = args.work / "settings.yaml"
    settings.write_text(f"part-rows: {args.part_rows}\n")
    words = ["encode", encoder, corpus, "-o", folder, "--config", settings, "--dtype", "float32", "--quiet"]
    command = [sys.executable, "-m", "prune2vec", *map(str, words)]
    watched = encode(command, folder, args.texts, shares, args.seed)
    checked = verify(folder, corpus, encoder, sample=args.sample, seed=args.seed)
    grown = growth(watched.samples)
    whole = checked["in_order"] and checked["rows"] == args.texts and checked["largest_difference"] <= TOLERANCE
    return {
        **checked,
        "seconds": round(watched.seconds, 1),
        "texts_per_s": round(args.texts / watched.seconds, 1),
        "kills": watched.kills,
        "parts": len(Store.load(folder).parts),
        "parts_written_again": watched.rewritten,
        "rss": {str(share): memory_at(watched.samples, share, args.texts) for share in (0.1, 0.5, 1.0)},
        "rss_peak": watched.peak,
        "rss_growth": round(grown, 4),
        "rss_samples": watched.samples[:: max(1, len(watched.samples) // 200)],
        "verdict": bool(whole and watched.rewritten == 0 and len(watched.kills) == len(shares) and grown < 1.05),
    }


def line(name: str, result: dict[str, Any]) -> list[str]:
    """Return the line of a run in the table."""
    counts = [f"{result['rows']:,}", f"{result['seconds']:.0f}", f"{result['texts_per_s']:,.0f}", len(result["kills"])]
    memory = [human_bytes(result["rss"][share]) for share in ("0.1", "0.5", "1.0")]
    ends = [human_bytes(result["rss_peak"]), f"{result['rss_growth']:.3f}", f"{result['largest_difference']:.1e}"]
    verdict = "all there once, memory flat" if result["verdict"] else "FAILED"
    return [name, *map(str, counts), str(result["parts"]), str(result["parts_written_again"]), *memory, *ends, verdict]


if __name__ == "__main__":
    main()
