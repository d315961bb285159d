"""Trainings to run in one process or in several: ``torchrun --nproc-per-node 2 -m tests.training.together FOLDER few``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from prune2vec.cli.app import main, prepare_environment
from prune2vec.training import train as train_module
from prune2vec.training.train import TrainResult, train_encoder
from tests.training.encoders import rows

# 4 + 3 batches of 8 an epoch.
DATA = (*rows(32, "one", negatives=2), *rows(26, "two", start=32))
QUICK: dict[str, Any] = {
    "steps": 3,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "lora_dropout": 0.0,
    "dtype": "float32",
    "device": "cpu",
}
FEW: dict[str, dict[str, Any]] = {
    "adapters": {"steps": 12, "save_every": 4, "dev": "dev.jsonl"},
    "elastic": {"depths": (1, 2, 3), "depths_per_step": 2, "deepest_teaches": True, "distil": "similarities"},
    "teacher of texts": {"teacher": "teacher", "texts": "texts.txt", "method": "full", "packing": "off"},
}
MORE: dict[str, dict[str, Any]] = {
    "all weights": {"method": "full", "packing": "off", "gradient_checkpointing": "on"},
    "cached": {"cached": True, "mini_batch_size": 2, "matryoshka_dims": (8, 16)},
    "elastic, all weights": {"method": "full", "depths": (2,), "packing": "off", "matryoshka_dims": (16,)},
    "teacher": {"teacher": "teacher", "distil": "vectors"},
    "similarities of texts": {"teacher": "teacher", "texts": "texts.txt", "distil": "similarities"},
    "scores": {"teacher": "teacher", "distil": "scores", "hard_negatives": 2},
    "bf16": {"dtype": "bfloat16"},
}
CASES = {**FEW, **MORE}
FILES = ("teacher", "texts", "dev")


class Gradients(TrainerCallback):
    """Keeps the gradients of each step, in the optimiser's order; of a step at which it stops, none."""

    def __init__(self, stop: int = 0) -> None:
        self.steps: list[torch.Tensor] = []
        self._stop = stop

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        found = [parameter.grad for group in groups for parameter in group["params"] if parameter.grad is not None]
        self.steps.append(torch.cat([gradient.flatten() for gradient in found]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._stop:
            raise KeyboardInterrupt


def run(case: str, inputs: Path, output: Path, *callbacks: TrainerCallback, **more: Any) -> TrainResult:
    """Train as a case says, on the files in ``inputs``."""
    settings = {**QUICK, **CASES[case], **more}
    settings |= {key: inputs / settings[key] for key in FILES if key in settings}
    data = None if "texts" in settings else DATA
    return train_encoder(inputs / "encoder", data, output, callbacks=callbacks, **settings)


def outcome(call: Any) -> str:
    """Return how a call ends."""
    try:
        call()
    except BaseException as error:
        return type(error).__name__
    return "done"


def run_cases(folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    """Run cases as one of several processes; results and gradients go into files named by rank."""
    rank = int(os.environ["RANK"])
    for case in cases:
        watch = Gradients()
        result = run(case, folder, folder / "together" / case, watch)
        torch.save(watch.steps, folder / f"{case}.{rank}.pt")
        (folder / f"{case}.{rank}.json").write_text(json.dumps(result.to_json()))


def go_wrong(folder: Path) -> None:
    """Be interrupted, go on, be refused, and at last be one of two of which one fails alone, while the other waits for it."""
    rank = int(os.environ["RANK"])
    stopped = folder / "together" / "stopped"
    seen = {
        "interrupted": outcome(lambda: run("adapters", folder, stopped, Gradients(stop=10))),
        "resumed": run("adapters", folder, stopped).resumed_from,
        "again": run("adapters", folder, stopped).resumed_from,
        "uneven": outcome(lambda: run("adapters", folder, folder / "together" / "uneven", batch_size=7)),
    }
    (folder / f"wrong.{rank}.json").write_text(json.dumps(seen))
    if rank == 1:
        train_module.fit = broken  # type: ignore[attr-defined]
    words = ["train", folder / "encoder", "--data", folder / "dev.jsonl", "-o", folder / "together" / "failed"]
    sys.exit(main([*map(str, words), "--batch-size", "8", "--steps", "2", "--device", "cpu"]))


def broken(*args: Any) -> None:
    """Fail."""
    raise MemoryError("no memory in the second process")


if __name__ == "__main__":
    prepare_environment()
    _, where, which = sys.argv
    run_cases(Path(where), FEW if which == "few" else MORE)
    if which == "few":
        go_wrong(Path(where))
    outcome(lambda: run("adapters", Path(where), Path(where) / "together" / "handed on", Gradients(stop=10)))
