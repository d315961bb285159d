"""Speed and memory of the profile against the paper's way of computing it (paper_way.py), on the same tuples.

Three tables: both ways at their default number formats, both at the same one, and the scorers that share the layer loss's one
pass against the layer loss alone (with --several-passes also those that by their nature need many).
The two ways must give the same curve. Times are of a loaded model, texts in and curve out, sides in turn (A B A B); memory
is the peak RSS of one run in a process of its own, the model's loading included. All processes keep the memory they free, as
``prune2vec profile`` does on Linux; ``--usual-allocator`` leaves that out. Where ``auto`` is float32 (a CPU without
bf16 matrix units), the default formats are the same one, and the second table is the first.

python benchmarks/profile_speed.py --texts probe-1280.jsonl.gz --out benchmarks/results/profile-speed.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import paper_way
import torch
from common import ChildRun, abab, markdown_table, print_cuda_peak, run_child, synchronised, write_result

from prune2vec.data.reader import load_triplets
from prune2vec.data.triplet import Triplet
from prune2vec.forward.backbone import Backbone, load_backbone
from prune2vec.machine import keep_freed_memory, pick_device, pick_dtype
from prune2vec.models.load import load_tokenizer
from prune2vec.models.prepared_text import prepare_text
from prune2vec.models.source import resolve_source
from prune2vec.models.text_settings import TextSettings
from prune2vec.profiling.measure import measured
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.token_groups import draw_groups, tokenise_groups
from prune2vec.progress import silenced

TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
SCORERS = {
    "layer-loss": ("layer-loss",),
    "layer-loss, redundancy": ("layer-loss", "redundancy"),
    "... and redundancy-iterative": ("layer-loss", "redundancy", "redundancy-iterative"),
}
Curve = Callable[[], list[float]]


def main() -> None:
    """Measure, write, print the tables."""
    options = _options()
    kept = not options.usual_allocator and keep_freed_memory()
    if options.child:
        print(json.dumps(_side(options.child, options)()))
        print_cuda_peak()
        return
    auto = str(pick_dtype("auto", pick_device(options.device))).removeprefix("torch.")
    pairs = {"default formats": ("float32", auto), "same format": (options.dtype or auto, options.dtype or auto)}
    result: dict[str, Any] = {"settings": _settings(options) | {"keeps_memory": kept}, "ways": {}}
    for name, formats in pairs.items() if options.rounds else ():
        same = next((done for done, other in pairs.items() if other == formats and done in result["ways"]), None)
        result["ways"][name] = result["ways"][same] if same else compare(formats, options)
    result["scorers"] = compare_scorers(options)
    write_result(options.out, result)
    print_tables(result)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="triplets, used in file order")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tuples", type=int, default=64, help="a multiple of 64")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the first two tables; 0 leaves them out")
    parser.add_argument("--scorer-rounds", type=int, default=5, help="rounds of the third table; 0 leaves it out")
    parser.add_argument("--scorer-tuples", type=int, default=64, help="tuples of the third table")
    parser.add_argument("--several-passes", action="store_true", help="time the scorers of many passes too")
    parser.add_argument("--dtype", help="number format of the second table; unset: what auto picks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--usual-allocator", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tuples < paper_way.BATCH or options.tuples % paper_way.BATCH:
        parser.error(f"--tuples is {options.tuples}; expected a multiple of {paper_way.BATCH}")
    return options


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    named = ("model", "tuples", "max_length", "rounds", "scorer_rounds", "scorer_tuples", "device")
    return {name: getattr(options, name) for name in named} | {"texts": options.texts.name}


def compare(formats: tuple[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Time the paper's way and ours, each in its number format, and measure the memory of each.

    Raises:
        ValueError: The two curves differ by more than rounding.
    """
    sides = dict(zip(("paper's way", "prune2vec"), (f"paper:{formats[0]}", f"ours:{formats[1]}"), strict=True))
    children: dict[str, ChildRun] = {name: run_child(_child_command(side, options)) for name, side in sides.items()}
    curves = [json.loads(child.stdout.splitlines()[-1]) for child in children.values()]
    difference = max(abs(theirs - ours) for theirs, ours in zip(*curves, strict=True))
    allowed = max(TOLERANCE.get(name, 3e-2) for name in formats)
    if difference > allowed:
        raise ValueError(
            f"the curves differ by {difference:.2g}, more than {allowed:.0e}: the two ways do not compute the same"
        )
    works = {name: _side(side, options) for name, side in sides.items()}
    times = abab({name: synchronised(work) for name, work in works.items()}, options.rounds, warmup=0)
    tokens = sum(len(row.ids) for group in _tokenised(_triplets(options), options) for row in group.rows)
    rows = {
        name: {
            "dtype": formats[place],
            **times[name],
            "tokens_per_s": round(tokens / times[name]["median"], 1),
            "peak_rss": children[name].peak_rss,
            "cuda_peak": children[name].cuda_peak,
            "memory": children[name].memory,
        }
        for place, name in enumerate(sides)
    }
    return {"tokens": tokens, "largest_difference": difference, "sides": rows, "loss": curves[1]}


def _child_command(side: str, options: argparse.Namespace) -> list[str | Path]:
    words: list[str | Path] = [Path(__file__), "--child", side, "--texts", options.texts, "--model", options.model]
    words += ["--tuples", str(options.tuples), "--max-length", str(options.max_length), "--device", options.device]
    return [*words, "--out", options.out, *(["--usual-allocator"] if options.usual_allocator else [])]


def _side(side: str, options: argparse.Namespace) -> Curve:
    """Return the work of one side: ``paper:float32`` or ``ours:bfloat16``; the model is loaded and warm when it returns."""
    way, _, dtype = side.partition(":")
    triplets = _triplets(options)
    work = (_paper_side if way == "paper" else _our_side)(dtype, options)
    work(triplets[:2])
    return partial(work, triplets)


def _paper_side(dtype: str, options: argparse.Namespace) -> Callable[[list[Triplet]], list[float]]:
    model, tokenizer = paper_way.load(options.model, dtype=getattr(torch, dtype), device=str(pick_device(options.device)))
    return lambda triplets: paper_way.layer_losses(model, tokenizer, triplets, max_length=options.max_length)


def _our_side(dtype: str, options: argparse.Namespace) -> Callable[[list[Triplet]], list[float]]:
    backbone = load_backbone(options.model, dtype=dtype, device=options.device)
    return lambda triplets: list(_sections(backbone, triplets, ("layer-loss",), options)["layer-loss"]["loss"])


def _sections(
    backbone: Backbone, triplets: list[Triplet], names: tuple[str, ...], options: argparse.Namespace
) -> dict[str, Any]:
    """Tokenise and measure as ``profile`` does with a model that is loaded."""
    settings = ProfileSettings(scorers=names, max_length=options.max_length)
    groups = _tokenised(triplets, options, backbone.tokenizer)
    # Without what it found out about the model before: a profile checks it once.
    backbone = replace(backbone)
    with silenced():
        return measured(names, backbone, groups, settings)


def _triplets(options: argparse.Namespace) -> list[Triplet]:
    return load_triplets(options.texts)[: options.tuples]


def _tokenised(triplets: list[Triplet], options: argparse.Namespace, tokenizer: Any = None) -> list[Any]:
    tokens = tokenizer if tokenizer is not None else load_tokenizer(resolve_source(options.model))
    size = min(paper_way.BATCH, len(triplets))
    groups = draw_groups(triplets, groups=len(triplets) // size, size=size, seed=0, order="file")
    text = prepare_text(TextSettings(max_length=options.max_length), tokens, context=options.max_length)
    return tokenise_groups(groups, text)


def compare_scorers(options: argparse.Namespace) -> dict[str, Any]:
    """Time one scorer and several at once; those that need one pass, and on request those that need many."""
    if not options.scorer_rounds:
        return {}
    backbone = load_backbone(options.model, device=options.device)
    triplets = load_triplets(options.texts)[: options.scorer_tuples]
    chosen = dict(list(SCORERS.items())[: None if options.several_passes else 2])
    sides = {name: synchronised(partial(_sections, backbone, triplets, names, options)) for name, names in chosen.items()}
    return abab(sides, options.scorer_rounds)


def print_tables(result: dict[str, Any]) -> None:
    """Print one table a comparison."""
    for name, found in result["ways"].items():
        print(f"\n{name}: {result['settings']['tuples']} tuples, {found['tokens']} tokens; ", end="")
        print(f"largest difference of the curves {found['largest_difference']:.1g}\n")
        rows = [
            [
                side,
                row["dtype"],
                f"{row['median']:.1f}",
                f"{row['tokens_per_s']:,.0f}",
                f"{row['ratio']:.2f}x",
                row["memory"],
            ]
            for side, row in found["sides"].items()
        ]
        print(markdown_table(["way", "format", "seconds", "tokens/s", "speed", "peak memory"], rows))
    if result["scorers"]:
        rows = [[name, f"{row['median']:.1f}", f"{1 / row['ratio']:.2f}x"] for name, row in result["scorers"].items()]
        print("\n" + markdown_table(["scorers, measured together", "seconds", "time of the layer loss alone"], rows))


if __name__ == "__main__":
    main()
