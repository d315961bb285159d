"""What this machine can do at most, what a model needs, and the share of it that the other benchmarks reached.

Matrix throughput is the best over several products, the model's own sizes among them, each the fastest of some runs;
memory bandwidth that of a copy (read and write) and of a sum (read). Operations a token are counted: two for each weight
of a matrix, and the causal attention's; training a LoRA adapter takes the forward pass and the gradients of the states
(twice the forward pass), training all weights three times. The share is what was reached of the matrix throughput in that
number format. Speeds are read from the result files of the other benchmarks, as far as they are there.

python benchmarks/roofline.py --out benchmarks/results/roofline.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import markdown_table, synchronised, write_result

from prune2vec.files import read_json
from prune2vec.forward.backbone import load_backbone
from prune2vec.machine import pick_device, pick_dtype
from prune2vec.models.kept import Kept
from prune2vec.models.shape import ModelShape

OURS = "prune2vec"
LENGTH = 64  # where a result does not tell it; the attention is a small share


@dataclass(frozen=True)
class Reached:
    """A speed from a result file.

    Attributes:
        what: What it is of.
        dtype: Number format.
        tokens_per_s: Tokens a second.
        length: Mean length of a text in tokens.
        passes: How often the forward operations were done for a token.
        backward: Share of the layers that a training step's backward pass went through.
        again: Forward passes done once more in it, where activations were recomputed.
        kept: What the encoder keeps of the model; None for everything.
    """

    what: str
    dtype: str
    tokens_per_s: float
    length: int = LENGTH
    passes: float = 1.0
    backward: float = 1.0
    again: float = 0.0
    kept: Kept | None = None


def main() -> None:
    """Measure, read, write, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2", help="the model that the result files are about")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of the result files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", help="square products to try; unset: by machine")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--train-passes", type=float, default=2.0, help="forward operations a training step takes; LoRA: 2, all weights: 3"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    device = pick_device(options.device)
    backbone = load_backbone(options.model, dtype="float32", device="cpu")
    sizes = options.sizes or ([4096, 8192] if device.type == "cuda" else [1024, 2048, 4096])
    products = [(size, size, size) for size in sizes] + own_products(backbone.shape)
    throughput = {name: matrix_throughput(products, name, device, options.rounds) for name in options.dtypes}
    best = {name: max(found.values()) for name, found in throughput.items()}
    reached = list(reached_speeds(options.results, options.train_passes))
    result = {
        "model": options.model,
        "matrix_flops_per_s": throughput,
        "best": best,
        "memory_bytes_per_s": memory_bandwidth(device, options.rounds),
        "flops_per_token": {str(length): needed(backbone.shape, length) for length in (32, 128, 512)},
        "reached": [row_of(speed, backbone.shape, best) for speed in reached],
    }
    write_result(options.out, result)
    print_tables(result)


def own_products(shape: ModelShape) -> list[tuple[int, int, int]]:
    """Return the products of a block's largest matrix with 512 and 4,096 tokens, as (rows, inner, columns)."""
    if not shape.knows_neurons:
        return []
    return [(tokens, shape.hidden_size, shape.mlp_width[0]) for tokens in (512, 4096)]


def fastest(work: Callable[[], object], rounds: int, *, at_least: float = 0.05) -> float:
    """Return the seconds of the fastest of ``rounds`` runs of ``work``; short work is repeated within a run."""
    timed = synchronised(work)
    timed()
    begin = time.perf_counter()
    timed()
    repeats = max(1, round(at_least / max(time.perf_counter() - begin, 1e-9)))
    seconds = []
    for _ in range(rounds):
        begin = time.perf_counter()
        for _ in range(repeats):
            work()
        synchronised(lambda: None)()
        seconds.append((time.perf_counter() - begin) / repeats)
    return min(seconds)


@torch.inference_mode()
def matrix_throughput(products: list[tuple[int, int, int]], dtype: str, device: torch.device, rounds: int) -> dict[str, float]:
    """Return the operations a second of each product, by its sizes."""
    found = {}
    for rows, inner, columns in products:
        left = torch.randn(rows, inner, device=device).to(getattr(torch, dtype))
        # As a linear layer has it: the weight's rows are the outputs.
        right = torch.randn(columns, inner, device=device).to(getattr(torch, dtype))
        seconds = fastest(partial(torch.nn.functional.linear, left, right), rounds)
        found[f"{rows} x {inner} x {columns}"] = 2 * rows * inner * columns / seconds
    return found


@torch.inference_mode()
def memory_bandwidth(device: torch.device, rounds: int, *, size: int = 1 << 29) -> dict[str, float]:
    """Return the bytes a second of a copy (read and written) and of a sum (read)."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    copy, total = fastest(lambda: target.copy_(source), rounds), fastest(source.sum, rounds)
    return {"copy": 2 * size / copy, "sum": size / total}


def needed(shape: ModelShape, length: int, kept: Kept | None = None) -> int:
    """Return the forward operations a token of what is kept, everything unless given."""
    return shape.flops_per_token(kept or range(shape.num_layers), length=length)


def row_of(speed: Reached, shape: ModelShape, best: Mapping[str, float]) -> dict[str, Any]:
    """Return a speed as operations a second and as a share of the best matrix throughput in its number format."""
    flops = speed.tokens_per_s * needed(shape, speed.length, speed.kept) * speed.passes
    whole = best.get(speed.dtype)
    return {
        "what": speed.what,
        "dtype": speed.dtype,
        "tokens_per_s": speed.tokens_per_s,
        "flops_per_s": flops,
        "share": flops / whole if whole else None,
    }


def reached_speeds(folder: Path, train_passes: float) -> Iterator[Reached]:
    """Yield our side's speeds from the result files of profile_speed, encode_speed and train_speed in ``folder``."""
    readers = {"profile-speed": profile_speeds, "encode-speed": encode_speeds, "train-speed": train_speeds}
    for name, reader in readers.items():
        file = folder / f"{name}.json"
        if file.exists():
            for speed in reader(read_json(file)):
                passes = 1 + (train_passes - 1) * speed.backward + speed.again if reader is train_speeds else 1.0
                yield replace(speed, what=f"{name}: {speed.what}", passes=passes)


def profile_speeds(result: dict[str, Any]) -> Iterator[Reached]:
    """Yield the speed of the profile in each number format."""
    for name, found in result["ways"].items():
        side = found["sides"][OURS]
        yield Reached(name, side["dtype"], side["tokens_per_s"])


def encode_speeds(result: dict[str, Any]) -> Iterator[Reached]:
    """Yield the speed of encoding each kind of texts; the encoder's record says what it keeps."""
    layers = result.get("keep_layers")
    kept = Kept.of(layers) if layers else None
    for name, row in result["workloads"].items():
        length = row["tokens"] / row["texts"]
        yield Reached(name, number_format(result), row["texts_per_s"][OURS] * length, max(1, round(length)), kept=kept)


def train_speeds(result: dict[str, Any]) -> Iterator[Reached]:
    """Yield the speed of every side of a training step but the first, which is the plain recipe."""
    settings = result["settings"]
    again = float(settings.get("gradient_checkpointing") == "True")
    for case, found in result["cases"].items():
        layers = int(case.split()[0])
        for name, side in list(found["sides"].items())[1:]:
            share = min(int(settings["top"]), layers) / layers if name == "top" else 1.0
            speed = Reached(f"{case}, {name}", number_format(result), side["tokens_per_s"], kept=Kept.of(range(layers)))
            yield replace(speed, backward=share, again=again * share)


def number_format(result: Mapping[str, Any]) -> str:
    """Return the number format of a result; ``auto`` is what this machine takes."""
    return str(pick_dtype(result["settings"]["dtype"], pick_device("auto"))).removeprefix("torch.")


def print_tables(result: dict[str, Any]) -> None:
    """Print the machine, what the model needs, and what was reached."""
    rows = [
        [f"{product}, {dtype}", f"{rate / 1e9:,.0f} GFLOP/s"]
        for dtype, found in result["matrix_flops_per_s"].items()
        for product, rate in found.items()
    ]
    rows += [[f"best, {dtype}", f"{rate / 1e9:,.0f} GFLOP/s"] for dtype, rate in result["best"].items()]
    rows += [[f"memory, {kind}", f"{rate / 1e9:.1f} GB/s"] for kind, rate in result["memory_bytes_per_s"].items()]
    print("\n" + markdown_table(["this machine", "measured"], rows))
    counted = [[f"text of {length}", f"{flops / 1e9:.3f} GFLOP"] for length, flops in result["flops_per_token"].items()]
    print("\n" + markdown_table([f"{result['model']}, forward", "a token"], counted))
    reached = [
        [
            row["what"],
            row["dtype"],
            f"{row['tokens_per_s']:,.0f}",
            f"{row['flops_per_s'] / 1e9:,.0f} GFLOP/s",
            "not measured" if row["share"] is None else f"{row['share']:.0%}",
        ]
        for row in result["reached"]
    ]
    if reached:
        print("\n" + markdown_table(["benchmark", "format", "tokens/s", "reached", "share of the best product"], reached))
        shares = [row["share"] for row in result["reached"] if row["share"] is not None]
        if shares:
            print(f"\nmedian share {statistics.median(shares):.0%}")


if __name__ == "__main__":
    main()
