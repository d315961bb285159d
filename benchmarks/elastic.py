"""Time of a training step at several depths of one pass, against the deepest alone and against each depth in a run of its own.

A round is a step on each batch: tokenised texts in, forward and backward pass, optimiser. All sides start from one encoder, with the
same rows, adapters and packing; sides take turns (A B A B). The factor is the median over the rounds of a side's seconds by those
of the deepest alone.

python benchmarks/elastic.py --data DATA --out benchmarks/results/elastic.json
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

# Before torch is imported: spinning threads would slow down all sides.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from common import abab, markdown_table, synchronised, write_result
from train_speed import Tables, made_tables, real_tables

from prune2vec.machine import pick_device
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model
from prune2vec.training.adapters import choose_trained
from prune2vec.training.elastic import ElasticLoss, elastic_depths
from prune2vec.training.objective import build_loss, pooled_in_fp32
from prune2vec.training.packed_loss import without_padding
from prune2vec.training.train_settings import TrainSettings


class Side:
    """An encoder in training, ready for steps as ``prune2vec train`` takes them."""

    def __init__(self, stack: ExitStack, folder: Path, tables: Tables, options: argparse.Namespace, depths: list[int]) -> None:
        settings = TrainSettings(depths=tuple(depths), method=options.method, max_length=options.max_length, seed=options.seed)
        dtype = options.dtype if options.method == "lora" else "float32"
        encoder = load_encoder(folder, device=options.device, dtype=dtype)
        encoder.max_seq_length = options.max_length
        every = elastic_depths(encoder, settings)
        choose_trained(encoder, settings)
        stack.enter_context(pooled_in_fp32(encoder))
        loss = build_loss(encoder, settings)
        loss = ElasticLoss(encoder, loss, every, settings) if every else loss
        packed = without_padding(loss, encoder.train(), "auto", max_length=options.max_length)
        self._loss, self.packing = stack.enter_context(packed)
        self._batches = [
            [dict(encoder.preprocess([row[name] for row in rows])) for name in rows[0]] for rows in tables.values()
        ]
        self._batches = [[_moved(column, encoder.device) for column in batch] for batch in self._batches]
        self._optimiser = torch.optim.AdamW([one for one in encoder.parameters() if one.requires_grad], lr=1e-4)

    def round(self) -> None:
        """Take a step on each batch."""
        for columns in self._batches:
            found = self._loss([dict(column) for column in columns], None)
            total = torch.stack(list(found.values())).sum() if isinstance(found, dict) else found
            total.backward()
            self._optimiser.step()
            self._optimiser.zero_grad()


def rounds_of(sides: Iterable[Side]) -> None:
    """Train each for one epoch."""
    for side in sides:
        side.round()


def _moved(column: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in column.items()}


def measured(tables: Tables, options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of all sides, and their factors."""
    deepest = options.depths[-1]
    with tempfile.TemporaryDirectory(prefix="elastic-") as place, ExitStack() as stack:
        folders = {depth: prune_model(options.model, depth, Path(place) / str(depth)) for depth in options.depths}
        whole = folders[deepest]
        alone = Side(stack, whole, tables, options, [])
        elastic = Side(stack, whole, tables, options, options.depths[:-1])
        sides: dict[str, Callable[[], object]] = {
            f"depth {deepest} alone": synchronised(alone.round),
            f"depths {','.join(map(str, options.depths))} at once": synchronised(elastic.round),
        }
        if options.apart:
            runs = [alone, *(Side(stack, folders[depth], tables, options, []) for depth in options.depths[:-1])]
            sides["each depth in a run of its own"] = synchronised(partial(rounds_of, runs))
        found = abab(sides, options.rounds, warmup=options.warmup)
    steps = len(tables)
    return {
        name: {**side, "s_per_step": side["median"] / steps, "steps_per_s": steps / side["median"], "factor": 1 / side["ratio"]}
        for name, side in found.items()
    }


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder or file of triplets; every data set in it gives one batch")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 18, 30], help="ascending; the last one is the deepest")
    parser.add_argument("--batch", type=int, default=16, help="rows a step")
    parser.add_argument("--method", choices=("lora", "full"), default="lora")
    parser.add_argument("--max-length", type=int, default=64, help="of texts in tokens; made texts are that long")
    parser.add_argument("--no-apart", dest="apart", action="store_false", help="leave the separate runs out")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.device = str(pick_device(options.device))
    return options


def main() -> None:
    """Measure, print the table, write."""
    options = parsed()
    if options.data:
        tables = real_tables(options.data, options.batch, options.seed)
    else:
        tables = made_tables(options.batch, options.max_length, options.seed)
    found = measured(tables, options)
    rows = [
        (name, f"{side['s_per_step']:.2f}", f"{side['steps_per_s']:.3f}", f"{side['factor']:.2f}")
        for name, side in found.items()
    ]
    print(markdown_table(("side", "s a step", "steps/s", "factor"), rows))
    if options.out:
        settings = {name: str(value) for name, value in vars(options).items()}
        write_result(options.out, {"settings": settings, "steps_per_round": len(tables), "sides": found})


if __name__ == "__main__":
    main()
