"""One training step of two versions of prune2vec, in turns (A B B A): its time, its peak memory, and its operations' shares.

Each version is a checkout, run by the interpreter of this script in a process of its own that cuts the model, puts adapters in and
does one step to warm up, then waits for its turn. A step is ``train``'s: one batch of triplets is tokenised, computed forward and
back, its gradients clipped, and AdamW moves the adapters; freed memory is kept, as the command does. Shares are those of the time
spent in torch's operations themselves, by torch's profiler, in a step that is not timed.

    git worktree add ../before REVISION
    python benchmarks/step_versions.py --a ../before --b . --texts allnli.jsonl.gz --layers 7 30 --out runs/step.json
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import WarmVersion, human_bytes, markdown_table, write_result

_WORKER = """
import inspect, json, resource, sys, time
from pathlib import Path

given = json.loads(sys.argv[1])
import torch
from torch.profiler import ProfilerActivity, profile

import prune2vec
from prune2vec.data.reader import load_triplets
from prune2vec.machine import keep_freed_memory
from prune2vec.pruning.encoder import load_encoder
from prune2vec.training.adapters import add_lora
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train_settings import TrainSettings

assert Path(prune2vec.__file__).is_relative_to(given["checkout"]), prune2vec.__file__
keep_freed_memory()
settings = TrainSettings()
encoder = load_encoder(given["encoder"], device="cpu", dtype=given["dtype"])
encoder.max_seq_length = settings.max_length
torch.manual_seed(0)
add_lora(encoder, settings)
trained = [parameter for parameter in encoder.train().parameters() if parameter.requires_grad]
optimiser = torch.optim.AdamW(trained, lr=settings.learning_rate, fused=True)
rows, seen = [], set()
for row in load_triplets(given["texts"], require_negative=True):
    texts = (row.anchor, row.positive, row.negatives[0])
    if len(rows) < given["batch"] and not seen.intersection(texts):
        rows.append(texts)
        seen.update(texts)


def step():
    columns = [dict(encoder.preprocess(list(column))) for column in zip(*rows)]
    found = loss(columns, None)
    found.backward()
    torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
    optimiser.step()
    optimiser.zero_grad()
    return found.item(), sum(int(column["attention_mask"].sum()) for column in columns)


def told(**what):
    print("@" + json.dumps(what), flush=True)


plain = build_loss(encoder, settings)
# Earlier versions take several encoders.
of = [encoder] if "encoders" in inspect.signature(without_padding).parameters else encoder
with pooled_in_fp32(encoder), without_padding(plain, of, "on", max_length=settings.max_length) as (loss, _):
    torch.manual_seed(1)
    first, tokens = step()
    told(loss=first, tokens=tokens)
    for line in sys.stdin:
        if line.strip() == "profile":
            with profile(activities=[ProfilerActivity.CPU]) as watch:
                step()
            told(operations={event.key: event.self_cpu_time_total for event in watch.key_averages()})
            continue
        begun = time.perf_counter()
        step()
        told(seconds=time.perf_counter() - begun, peak=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
_SHOWN = 12


def measured(checkouts: dict[str, Path], given: dict[str, Any], rounds: int) -> dict[str, dict[str, Any]]:
    """Return seconds, tokens a second, peak memory, first loss and shares of both versions."""
    sides = {name: WarmVersion(_WORKER, checkout, given) for name, checkout in checkouts.items()}
    answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        # Who goes first changes from round to round.
        for name in sides if number % 2 == 0 else reversed(sides):
            answers[name].append(sides[name].ask("step"))
    found = {}
    for name, side in sides.items():
        seconds = [answer["seconds"] for answer in answers[name]]
        median = statistics.median(seconds)
        spent = side.ask("profile")["operations"]
        found[name] = {
            "seconds": seconds,
            "median": median,
            "tokens": side.first["tokens"],
            "tokens_per_s": side.first["tokens"] / median,
            "peak_bytes": answers[name][-1]["peak"],
            "first_loss": side.first["loss"],
            "shares": {key: value / sum(spent.values()) for key, value in sorted(spent.items(), key=lambda one: -one[1])[:40]},
        }
        side.close()
    return found


def print_tables(layers: int, found: dict[str, dict[str, Any]]) -> None:
    """Print times and memory, and the operations that take most in either version."""
    a, b = found["a"], found["b"]
    pairs = sorted(before / after for before, after in zip(a["seconds"], b["seconds"], strict=True))
    rows = [
        [
            name,
            f"{side['median']:.2f}",
            f"{side['tokens_per_s']:.0f}",
            human_bytes(side["peak_bytes"]),
            f"{side['first_loss']:.5f}",
        ]
        for name, side in found.items()
    ]
    print(f"\n{layers} layers: b is {a['median'] / b['median']:.3f} times as fast ({pairs[0]:.2f} to {pairs[-1]:.2f})\n")
    print(markdown_table(["version", "s a step", "tokens/s", "peak memory", "first loss"], rows))
    most = sorted({*a["shares"], *b["shares"]}, key=lambda key: -max(a["shares"].get(key, 0), b["shares"].get(key, 0)))[:_SHOWN]
    shares = [[key, *(f"{side['shares'].get(key, 0):.1%}" for side in found.values())] for key in most]
    print("\n" + markdown_table(["operation", *found], shares))


def main() -> None:
    """Time both versions at each depth, print the tables, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--a", type=Path, required=True, help="checkout of the version before")
    parser.add_argument("--b", type=Path, required=True, help="checkout of the version after")
    parser.add_argument(
        "--texts", type=Path, required=True, help="triplets; the first rows without a repeated text are the batch"
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--layers", type=int, nargs="+", default=[7, 30])
    parser.add_argument("--batch", type=int, default=64, help="rows of three texts a step")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    for layers in given.layers:
        with tempfile.TemporaryDirectory() as scratch:
            encoder = Path(scratch) / "encoder"
            cut = [sys.executable, "-c", _CUT, given.model, str(layers), str(encoder)]
            subprocess.run(cut, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent)
            told = {"encoder": str(encoder), "texts": str(given.texts.resolve()), "batch": given.batch, "dtype": given.dtype}
            result[str(layers)] = measured({"a": given.a, "b": given.b}, told, given.rounds)
        print_tables(layers, result[str(layers)])
        write_result(given.out, {"rounds": given.rounds, "batch": given.batch, "dtype": given.dtype, "layers": result})


_CUT = """
import sys
from pathlib import Path
from train_speed import cut_encoder

cut_encoder(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
"""

if __name__ == "__main__":
    main()
