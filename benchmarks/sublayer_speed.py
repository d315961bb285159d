"""What dropping an MLP, an attention or a whole block saves: encoding speed of cuts of one model, weights as they are.

Every cut is timed once a round, rounds one after the other (A B C A B C), so that a slow minute hits all of them; the
ratio of a cut is the median over the rounds of its speed by the full model's in the same round. The score of a cut says
nothing here: nothing is trained.

python benchmarks/sublayer_speed.py --rounds 7 --out benchmarks/results/smollm2-sublayer-speed.json
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from prune2vec.forward.backbone import load_backbone
from prune2vec.machine import describe
from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from prune2vec.planning.plan import PruningPlan


def cuts(layers: int, width: int) -> dict[str, tuple[Kept, float]]:
    """Return what each cut keeps, and the share of the neurons that it cuts; later layers go first, as a rule they are redundant."""
    last = range(layers)[-16:]
    whole = range(layers)
    depth_like_16m, depth_like_slim = 18, 15
    return {
        "full": (Kept.of(whole), 0.0),
        "8M": (Kept.of(whole, drop_mlp=last[:8]), 0.0),
        "16M": (Kept.of(whole, drop_mlp=last), 0.0),
        f"first {depth_like_16m}": (Kept.of(range(depth_like_16m)), 0.0),
        "16A": (Kept.of(whole, drop_attention=last), 0.0),
        "8B": (Kept.of(range(layers - 8)), 0.0),
        "16B": (Kept.of(range(layers - 16)), 0.0),
        "16M, width -30 %": (Kept.of(whole, drop_mlp=last), 0.3),
        f"first {depth_like_slim}": (Kept.of(range(depth_like_slim)), 0.0),
    }


def main() -> None:
    """Measure, write, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lengths", type=int, nargs="+", default=[16, 128, 512])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    backbone = load_backbone(options.model, dtype="float32", device="cpu")
    shape = backbone.shape
    plans = {}
    for name, (kept, share) in cuts(shape.num_layers, shape.mlp_width[0]).items():
        stay = tuple(range(shape.mlp_width[0] - round(share * shape.mlp_width[0])))
        plans[name] = PruningPlan(
            model=backbone.identity(),
            shape=shape,
            keep_layers=kept.layers,
            drop_attention=kept.drop_attention,
            drop_mlp=kept.drop_mlp,
            neurons=dict.fromkeys(kept.mlps, stay) if share else {},
            method="benchmark",
        )
    models = {name: cut_model(backbone.model, plan.kept, plan.neurons, share=True) for name, plan in plans.items()}
    rows: dict[str, dict[str, object]] = {name: {"params": plan.shape.params(plan.kept)} for name, plan in plans.items()}
    for length in options.lengths:
        seconds = time_rounds(
            models, rounds=options.rounds, shape=(options.batch, length), vocabulary=backbone.model.config.vocab_size
        )
        for name, plan in plans.items():
            whole = shape.flops_per_token(range(shape.num_layers), length=length)
            rows[name][f"speed-up at {length}"] = round(
                statistics.median(full / own for full, own in zip(seconds["full"], seconds[name], strict=True)), 3
            )
            rows[name][f"FLOPs ratio at {length}"] = round(whole / shape.flops_per_token(plan.kept, length=length), 3)
    result = {"settings": {**vars(options), "out": options.out.name}, "cuts": rows, "environment": describe()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_table(rows, options.lengths)


@torch.inference_mode()
def time_rounds(
    models: Mapping[str, torch.nn.Module], *, rounds: int, shape: tuple[int, int], vocabulary: int
) -> dict[str, list[float]]:
    """Return seconds for one batch of ``shape`` by model and round, the order drawn anew each round."""
    ids = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(0))
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(rounds + 1):
        order = random.Random(number).sample(sorted(models), len(models))
        for name in order:
            begin = time.perf_counter()
            models[name](input_ids=ids, use_cache=False)
            if number:  # The first round warms up.
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def print_table(rows: dict[str, dict[str, object]], lengths: list[int]) -> None:
    """Print one row a cut."""
    print("| cut | parameters | " + " | ".join(f"speed-up at {n} (by FLOPs)" for n in lengths) + " |")
    print("| --- | ---: |" + " ---: |" * len(lengths))
    for name, row in rows.items():
        cells = [f"{row[f'speed-up at {n}']:.2f}x ({row[f'FLOPs ratio at {n}']:.2f}x)" for n in lengths]
        print(f"| {name} | {int(str(row['params'])) / 1e6:.1f} M | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
