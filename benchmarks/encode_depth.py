"""Time and memory of encoding against depth: what a removed layer saves, and what does not shrink.

The encoder is cut to its first 3, 6, 9, ... blocks (tenths of its depth) and saved. Each is then loaded in a process of
its own, which encodes the same texts several times and tells its times, its peak resident memory and how long the
tokeniser alone takes. A least-squares line through the depths gives the cost of a layer; where it meets depth 0 is what
stays: embeddings, libraries, the tokeniser. The vectors are those of an encoder cut there and not trained, which takes
as long as a trained one.

python benchmarks/encode_depth.py --encoder ENCODER --out benchmarks/results/encode-depth.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import human_bytes, markdown_table, run_child, write_result

SHARES = tuple(tenth / 10 for tenth in range(1, 11))


def cut_encoders(encoder: Path, depths: list[int], folder: Path) -> dict[int, Path]:
    """Save the encoder at each depth, so that a process that loads one never holds the layers that are gone."""
    from prune2vec.models.cut import cut_model
    from prune2vec.pruning.encoder import load_encoder, save_encoder

    whole: Any = load_encoder(encoder, device="cpu", dtype="float32")
    model = whole[0].auto_model
    found = {}
    for depth in depths:
        whole[0].model = cut_model(model, range(depth), share=True)
        found[depth] = folder / str(depth)
        save_encoder(whole, found[depth])
    return found


def child(options: argparse.Namespace) -> None:
    """Load the encoder, encode, and print what it took as JSON."""
    from encode_speed import MAX_LENGTH, workloads

    from prune2vec.encoding.engine import Engine
    from prune2vec.machine import keep_freed_memory
    from prune2vec.pruning.encoder import load_encoder

    if options.keep_memory:
        keep_freed_memory()
    encoder: Any = load_encoder(options.encoder, device="cpu", dtype=options.dtype)
    encoder.max_seq_length = MAX_LENGTH
    engine = Engine(encoder)
    texts = workloads()["mixed texts"][: options.texts]
    rows = engine.tokenise(texts)
    engine.encode_rows(rows)
    seconds, tokenising = [], []
    for _ in range(options.rounds):
        begin = time.perf_counter()
        rows = engine.tokenise(texts)
        middle = time.perf_counter()
        engine.encode_rows(rows)
        tokenising.append(middle - begin)
        seconds.append(time.perf_counter() - begin)
    model = encoder[0].auto_model
    table = model.get_input_embeddings().weight
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    print(
        json.dumps(
            {
                "seconds": seconds,
                "tokenising": tokenising,
                "texts": len(texts),
                "tokens": sum(map(len, rows)),
                "weight_bytes": weights,
                "embedding_bytes": table.numel() * table.element_size(),
            }
        )
    )


def measured(options: argparse.Namespace, encoder: Path, depth: int) -> dict[str, Any]:
    """Return what one depth takes, from a process of its own."""
    rounds = max(1, options.rounds // 2)
    command = [__file__, "--encoder", encoder, "--child", "--rounds", rounds, "--dtype", options.dtype]
    command += ["--texts", options.texts, "--out", options.out, *([] if options.usual_allocator else ["--keep-memory"])]
    run = run_child([str(word) for word in command])
    return {"depth": depth, "peak_rss": run.peak_rss, **json.loads(run.stdout.splitlines()[-1])}


def joined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the runs of one depth: medians of the times, and of the peaks."""
    seconds = [value for run in runs for value in run["seconds"]]
    tokenising = [value for run in runs for value in run["tokenising"]]
    return {
        **runs[0],
        "seconds": seconds,
        "median_seconds": statistics.median(seconds),
        "tokenising_seconds": statistics.median(tokenising),
        "peak_rss": int(statistics.median(run["peak_rss"] for run in runs)),
    }


def line(rows: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Return the least-squares line of ``key`` over the depth: cost of a layer, cost at depth 0, and R squared."""
    depths = np.array([row["depth"] for row in rows], dtype=float)
    values = np.array([row[key] for row in rows], dtype=float)
    slope, intercept = np.polyfit(depths, values, 1)
    residual = values - (slope * depths + intercept)
    spread = float(((values - values.mean()) ** 2).sum())
    return {"per_layer": float(slope), "at_depth_0": float(intercept), "r_squared": 1 - float((residual**2).sum()) / spread}


def plot(rows: list[dict[str, Any]], lines: dict[str, dict[str, float]], path: Path) -> None:
    """Draw both lines over the depth."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    depths = np.array([0, *(row["depth"] for row in rows)])
    labels = (("median_seconds", 1.0, "seconds"), ("peak_rss", 1e9, "peak resident memory, GB"))
    for axis, (key, unit, label) in zip(axes, labels, strict=True):
        axis.plot(depths[1:], [row[key] / unit for row in rows], "o")
        axis.plot(depths, (lines[key]["per_layer"] * depths + lines[key]["at_depth_0"]) / unit, "-", linewidth=1)
        axis.set(xlabel="layers kept", ylabel=label, xlim=(0, None), ylim=(0, None))
    figure.savefig(path)


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=6, help="timed passes a depth, in two processes, once up and once down")
    parser.add_argument("--texts", type=int, default=32, help="so many of the mixed texts of encode_speed.py")
    parser.add_argument("--shares", default=",".join(map(str, SHARES)), help="depths as shares of the whole")
    parser.add_argument("--usual-allocator", action="store_true")
    parser.add_argument("--plot", type=Path, help="SVG to draw")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--keep-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    blocks = json.loads((options.encoder / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    shares = [float(share) for share in options.shares.split(",")]
    depths = sorted({max(1, round(share * blocks)) for share in shares})
    # Up and down again, so that a machine that gets slower or faster meanwhile does not tilt the line.
    runs: dict[int, list[dict[str, Any]]] = {depth: [] for depth in depths}
    with tempfile.TemporaryDirectory() as folder:
        encoders = cut_encoders(options.encoder, depths, Path(folder))
        for depth in (*depths, *reversed(depths)):
            runs[depth].append(measured(options, encoders[depth], depth))
            print(f"depth {depth}: {runs[depth][-1]['seconds']}", file=sys.stderr)
    rows = [joined(runs[depth]) for depth in depths]
    lines = {key: line(rows, key) for key in ("median_seconds", "peak_rss", "weight_bytes")}
    write_result(options.out, {"encoder": str(options.encoder), "dtype": options.dtype, "depths": rows, "lines": lines})
    if options.plot is not None:
        plot(rows, lines, options.plot)
    report(rows, lines)


def report(rows: list[dict[str, Any]], lines: dict[str, dict[str, float]]) -> None:
    """Print the lines in words and the depths as a table."""
    time_line, memory = lines["median_seconds"], lines["peak_rss"]
    last = rows[-1]
    print(
        f"time = {time_line['at_depth_0']:.3f} s + {time_line['per_layer']:.4f} s a layer (R2 {time_line['r_squared']:.4f}); of what "
        f"stays, tokenising is {statistics.median(row['tokenising_seconds'] for row in rows):.3f} s"
    )
    print(
        f"peak memory = {human_bytes(memory['at_depth_0'])} + {human_bytes(memory['per_layer'])} a layer (R2 {memory['r_squared']:.4f}); "
        f"weights: {human_bytes(lines['weight_bytes']['per_layer'])} a layer, embeddings {human_bytes(last['embedding_bytes'])}"
    )
    header = ("layers", "share", "seconds", "of the whole", "texts/s", "peak memory", "weights")
    cells = [
        (
            row["depth"],
            f"{row['depth'] / last['depth']:.0%}",
            f"{row['median_seconds']:.2f}",
            f"{row['median_seconds'] / last['median_seconds']:.0%}",
            f"{row['texts'] / row['median_seconds']:.1f}",
            human_bytes(row["peak_rss"]),
            human_bytes(row["weight_bytes"]),
        )
        for row in rows
    ]
    print(markdown_table(header, cells))


if __name__ == "__main__":
    main()
