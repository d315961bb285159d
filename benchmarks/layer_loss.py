"""The layer-loss curve of a model on a fixed probe set, in file order, without instruction: a result to compare runs by.

python benchmarks/layer_loss.py --texts probe-1280.jsonl.gz --out benchmarks/results/smollm2-layer-loss-fp32.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.profiling.profile import Profile


def main() -> None:
    """Measure, write the curve, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True, help="triplets, 1,280 of them, used in file order")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the curve and the picks")
    options = parser.parse_args()
    begin = time.monotonic()
    profile = profile_model(options.model, options.texts, sampling="file", dtype=options.dtype)
    seconds = time.monotonic() - begin
    plans = {variant: make_plan(profile, variant=variant) for variant in ("small", "large")}
    result = {
        "model": {"name": profile.model["name"], "fingerprint": profile.model["fingerprint"]},
        "texts": {**profile.texts, "source": options.texts.name},
        "settings": dict(profile.settings),
        "layer_loss": {
            key: [round(x, 5) for x in profile.to_json()["layer_loss"][key]] for key in ("loss", "std_error", "accuracy")
        },
        "picks": {variant: {"depth": len(plan.keep_layers), "notes": list(plan.notes)} for variant, plan in plans.items()},
        "seconds": round(seconds, 1),
        "environment": dict(profile.environment),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    _print_table(profile)
    for variant, plan in plans.items():
        print(f"{variant}: depth {len(plan.keep_layers)} of {plan.num_layers}", *plan.notes, sep="; ")
    print(f"{seconds:.0f} s, {profile.texts['tokens'] / seconds:.0f} tokens/s, {profile.settings['dtype']}")


def _print_table(profile: Profile) -> None:
    curve = profile.layer_loss
    print(f"{'depth':>5} {'loss':>8} {'error':>7} {'acc@1':>6}")
    for depth, row in enumerate(zip(curve.loss, curve.std_error, curve.accuracy, strict=True), start=1):
        print(f"{depth:>5} {row[0]:>8.4f} {row[1]:>7.4f} {row[2]:>6.3f}")


if __name__ == "__main__":
    main()
