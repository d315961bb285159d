"""Profile and cut a model that does not fit: time, bytes read and peak memory of streaming, and larger models on paper.

1. A small model profiled in memory and streamed: wall time, peak RSS, largest difference of the curves.
2. A model of Llama 3 8B's shape with random weights (random_model.py writes it: 16 GB on disk, removed at the end unless
   --keep): profiled within --memory, planned to --depth layers and cut; peak RSS of each command, and bytes read by bytes kept.
3. A 70B-shaped model on paper: computed from sizes and rates, not measured. The rates of this machine are those of
   part 2; those of the GPU are options.

Every command runs in a process of its own, whose peak RSS the kernel reports; memory-mapped pages count.

python benchmarks/stream.py --texts probe-1280.jsonl.gz --work runs/stream --out benchmarks/results/stream.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from common import ChildRun, abab, human_bytes, markdown_table, run_child, run_prune2vec, write_result
from on_paper import OnPaper, Rates, profile_on_paper
from random_model import LIKE, Sizes

from prune2vec.files import read_json
from prune2vec.planning.plan import PruningPlan
from prune2vec.profiling.profile import Profile

PARTS = ("small", "large", "paper")


def main() -> None:
    """Measure, write, print the tables."""
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"settings": {name: _plain(value) for name, value in vars(options).items() if name != "work"}}
    if "small" in options.parts:
        result["small"] = small(options)
    if "large" in options.parts:
        result["large"] = large(options)
    if "paper" in options.parts:
        result["paper"] = paper(options, result.get("large"))
    write_result(options.out, result)
    print_tables(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="triplets")
    parser.add_argument("--work", type=Path, required=True, help="folder for models, profiles and cuts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", default="smollm2", help="the small model of part 1")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of part 1")
    parser.add_argument("--like", choices=LIKE, default="8B", help="shape of the model of part 2")
    parser.add_argument("--layers", type=int, help="fewer or more layers than that shape has")
    parser.add_argument("--keep", action="store_true", help="leave the model of part 2 on the disk, and take one that is there")
    parser.add_argument("--memory", default="4GB", help="what the profile of part 2 may use")
    parser.add_argument("--tuples", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=64, help="of part 2; bounds its time")
    parser.add_argument("--small-memory", default="1GB", help="what the streamed profile of part 1 may use")
    parser.add_argument("--depth", type=int, default=5, help="layers that the cut keeps")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument(
        "--paper-tokens", type=int, default=232_744, help="tokens of part 3; so many have 1,280 tuples of E5's data"
    )
    parser.add_argument(
        "--paper-length", type=int, default=512, help="length of a text in part 3, for the attention's operations"
    )
    parser.add_argument("--gpu", default="one 24 GB RTX 4090", help="name of the GPU of part 3")
    parser.add_argument(
        "--gpu-tflops",
        type=float,
        default=165.2,
        help="dense bf16 rate of the GPU; 165.2 is what specification lists give for an RTX 4090",
    )
    parser.add_argument("--gpu-share", type=float, default=0.4, help="assumed share of it that the blocks reach")
    parser.add_argument(
        "--link-gb-s", type=float, default=20.0, help="assumed rate to the GPU; PCIe 4.0 x16 has 31.5 in theory"
    )
    parser.add_argument("--disk-gb-s", type=float, default=3.0, help="assumed rate of the GPU machine's disk: one NVMe drive")
    return parser.parse_args()


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, Path) else value


def small(options: argparse.Namespace) -> dict[str, Any]:
    """Profile the small model in memory and streamed, in turn, each run in a process of its own."""
    ways = {"in memory": ["--stream", "off"], "streamed": ["--stream", "on", "--memory", options.small_memory]}
    runs: dict[str, list[ChildRun]] = {way: [] for way in ways}
    files = {way: options.work / f"small-{way.replace(' ', '-')}.json" for way in ways}

    def work(way: str) -> None:
        found = _profile(options, options.model, files[way], [*ways[way], "--dtype", "float32"], max_length=512)
        runs[way].append(found)

    times = abab({way: partial(work, way) for way in ways}, options.rounds, warmup=0)
    curves = [Profile.load(file).layer_loss.loss for file in files.values()]
    return {
        "ways": {way: {**times[way], **_memory(max(runs[way], key=lambda run: run.peak_rss))} for way in ways},
        "largest_difference": max(abs(a - b) for a, b in zip(*curves, strict=True)),
    }


def _profile(options: argparse.Namespace, model: str | Path, output: Path, more: list[str], *, max_length: int) -> ChildRun:
    words: list[str | Path] = ["profile", model, "--texts", options.texts, "-o", output, "--quiet"]
    words += ["--groups", "1", "--group-size", str(options.tuples), "--max-length", str(max_length), "--device", options.device]
    return run_prune2vec([*words, *more])


def _memory(run: ChildRun) -> dict[str, Any]:
    return {"peak_rss": run.peak_rss, "cuda_peak": run.cuda_peak, "memory": run.memory}


def large(options: argparse.Namespace) -> dict[str, Any]:
    """Profile, plan and cut the model of part 2."""
    sizes = _large_sizes(options)
    with _random_model(options, sizes) as model:
        profile, plan, cut = (options.work / name for name in ("large.json", "large-plan.json", "large-cut"))
        more = ["--stream", "on", "--memory", options.memory, "--dtype", options.dtype]
        profiling = _profile(options, model, profile, more, max_length=options.max_length)
        run_prune2vec(["plan", profile, "--method", "depth", "--depth", str(options.depth), "-o", plan, "--quiet"])
        cutting = run_prune2vec(["prune", model, plan, "-o", cut, "--quiet"])
        found = {
            **_profiled(Profile.load(profile), profiling),
            **_cut(plan, cut, cutting),
            "disk_bytes_per_s": disk_rate(model),
        }
        shutil.rmtree(cut)
    return {"shape": options.like, "layers": sizes.layers, "memory": options.memory, **found}


def _large_sizes(options: argparse.Namespace) -> Sizes:
    return replace(LIKE[options.like], layers=options.layers) if options.layers else LIKE[options.like]


@contextmanager
def _random_model(options: argparse.Namespace, sizes: Sizes) -> Iterator[Path]:
    folder = options.work / f"random-{options.like}"
    if not (options.keep and folder.exists()):
        run_child([Path(__file__).parent / "random_model.py", folder, "--like", options.like, "--layers", str(sizes.layers)])
    try:
        yield folder
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def _profiled(profile: Profile, run: ChildRun) -> dict[str, Any]:
    shape, tokens = profile.shape, profile.texts["tokens"]
    every = range(shape.num_layers)
    # Texts differ in length; their mean stands for them in the attention's small share of the operations.
    length = tokens // (3 * profile.texts["used"])
    flops = tokens * shape.flops_per_token(every, length=length)
    return {
        "dtype": profile.settings["dtype"],
        "tokens": tokens,
        "flops": flops,
        "model_bytes": shape.params(every) * shape.bytes_per_param,
        "profile": {"seconds": run.seconds, **_memory(run), "flops_per_s": flops / run.seconds},
        "run": profile.environment["stream"]["runs"][0],
    }


def disk_rate(folder: Path, *, most: int = 2 * 10**9) -> float:
    """Return the bytes a second at which a model's weights come from the disk, the page cache left out."""
    done, begin = 0, time.perf_counter()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while done < most and (piece := stream.read(1 << 24)):
                done += len(piece)
    return done / (time.perf_counter() - begin)


def _cut(plan: Path, cut: Path, run: ChildRun) -> dict[str, Any]:
    chosen, read = PruningPlan.load(plan), read_json(cut / "prune2vec.json")["read"]["bytes"]
    kept = chosen.shape.params(chosen.kept) * chosen.shape.bytes_per_param
    return {
        "cut": {
            "layers": len(chosen.keep_layers),
            "seconds": run.seconds,
            **_memory(run),
            "bytes_read": read,
            "bytes_kept": kept,
            "read_by_kept": read / kept,
        }
    }


def paper(options: argparse.Namespace, measured: dict[str, Any] | None) -> dict[str, Any]:
    """Compute what a 70B-shaped model would take on a GPU machine, and on this one where part 2 was measured."""
    rates = [
        Rates(
            name=options.gpu,
            flops=options.gpu_tflops * 1e12 * options.gpu_share,
            read=options.disk_gb_s * 1e9,
            link=options.link_gb_s * 1e9,
            source=f"assumed: {options.gpu_share:.0%} of {options.gpu_tflops} TFLOP/s (bf16, dense, as listed), "
            f"disk {options.disk_gb_s} GB/s, link {options.link_gb_s} GB/s",
        ),
        *_measured_rates(measured),
    ]
    sizes = LIKE["70B"]
    found = {
        rate.name: asdict(
            profile_on_paper(sizes, rate, tokens=options.paper_tokens, length=options.paper_length, kept=options.depth)
        )
        for rate in rates
    }
    return {"tokens": options.paper_tokens, "rates": [asdict(rate) for rate in rates], "machines": found}


def _measured_rates(measured: dict[str, Any] | None) -> list[Rates]:
    if not measured:
        return []
    run = measured["run"]
    return [
        Rates(
            name="this machine",
            flops=measured["flops"] / (run["seconds"] - run["waiting_seconds"]),
            read=measured["disk_bytes_per_s"],
            link=None,
            source=f"measured on the {measured['shape']}-shaped model, {measured['dtype']}, and its files",
        )
    ]


def print_tables(result: dict[str, Any]) -> None:
    """Print a table for each part that was done."""
    if "small" in result:
        rows = [[way, f"{row['median']:.1f} s", row["memory"]] for way, row in result["small"]["ways"].items()]
        print(f"\n{result['settings']['model']}, largest difference {result['small']['largest_difference']:.1g}\n")
        print(markdown_table(["profile", "wall time", "peak memory"], rows))
    if "large" in result:
        _print_large(result["large"])
    if "paper" in result:
        _print_paper(result["paper"])


def _print_large(found: dict[str, Any]) -> None:
    profile, cut = found["profile"], found["cut"]
    print(
        f"\n{found['shape']}-shaped, {found['layers']} layers, {human_bytes(found['model_bytes'])}, {found['tokens']} tokens\n"
    )
    run = found["run"]
    rows = [
        [
            f"profile, streamed in {found['memory']}",
            f"{profile['seconds']:.0f} s",
            profile["memory"],
            f"{human_bytes(run['bytes_read'])} in {run['blocks']} blocks of {run['seconds_per_block']:.1f} s",
        ],
        [
            f"prune to {cut['layers']} layers",
            f"{cut['seconds']:.0f} s",
            cut["memory"],
            f"{human_bytes(cut['bytes_read'])}, {cut['read_by_kept']:.3f}x of what is kept",
        ],
    ]
    print(markdown_table(["command", "wall time", "peak memory", "bytes read"], rows))


def _print_paper(found: dict[str, Any]) -> None:
    first = OnPaper(**next(iter(found["machines"].values())))
    print(f"\nComputed, not measured: a 70B-shaped model, {found['tokens']:,} tokens. Time of a block: the slower of reading")
    print(
        "(files, then link) and computing, as the next block is read meanwhile; before it the embeddings and the first block."
    )
    for rate in found["rates"]:
        print(f"- {rate['name']}: {rate['flops'] / 1e12:.3g} TFLOP/s, {rate['read'] / 1e9:.2g} GB/s; {rate['source']}")
    rows = [
        ["parameters", f"{first.parameters / 1e9:.1f} G"],
        ["bytes of the files", human_bytes(first.file_bytes)],
        ["bytes of one block", human_bytes(first.block_bytes)],
        ["bytes that the profile reads", human_bytes(first.profile_bytes)],
        ["bytes of all hidden states", human_bytes(first.states_bytes)],
        ["bytes of two blocks and all hidden states", human_bytes(2 * first.block_bytes + first.states_bytes)],
        ["operations of the profile", f"{first.flops / 1e15:.1f} PFLOP"],
        ["bytes that a cut reads and keeps", human_bytes(first.kept_bytes)],
    ]
    for name, machine in found["machines"].items():
        parts = f"reading {_hours(machine['seconds_read'])}, computing {_hours(machine['seconds_compute'])}"
        rows.append([f"profile on {name}", f"{_hours(machine['seconds'])} ({parts})"])
    print("\n" + markdown_table(["70B-shaped, on paper", "computed"], rows))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds < 36000 else f"{seconds / 3600:,.0f} h"


if __name__ == "__main__":
    main()
