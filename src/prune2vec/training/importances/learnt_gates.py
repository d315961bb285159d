"""Rank neurons by gates that are learnt with the contrastive loss (EffiR's self-slimming)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prune2vec.data.triplet import Triplet
from prune2vec.progress import say
from prune2vec.training.calibration import tables_for, train_settings
from prune2vec.training.fit import TrainingJob, fit
from prune2vec.training.gates import Gates
from prune2vec.training.monitor import append
from prune2vec.training.neuron_importance import LOSS, STEPS, TEXTS, importances
from prune2vec.training.ranking_context import RankingContext
from prune2vec.training.slim_settings import SlimSettings
from prune2vec.training.work_folder import cut_back, read_lines, step_of

STATISTICS = "gates.jsonl"
_REPORTS = 10


@importances.register("gates", reads=(TEXTS, LOSS, STEPS))
def gates(subject: RankingContext, triplets: Sequence[Triplet], settings: SlimSettings) -> dict[int, Tensor]:
    """How far a learnt gate on the neuron is open, relu(z), after training gates alone (EffiR, arXiv 2512.20612, section 3).

    The gates start at 1 and are trained with AdamW without weight decay on the training loss plus a penalty; all else is
    frozen. Goes on after an interruption, to the same result.
    """
    job = TrainingJob(
        base=subject.output.parent,
        output=subject.output,
        data=tables_for(subject, triplets, settings),
        dev={},
        settings=train_settings(settings),
        device=subject.device,
        dtype=subject.dtype,
        identity=subject.identity,
    )
    learnt = Gates(subject, penalty=settings.gate_penalty, sharpness=settings.gate_sharpness)
    resume = job.work.open(job.identity, restart=settings.restart)
    done = step_of(resume) if resume else 0
    statistics = job.work.folder / STATISTICS
    cut_back(statistics, done)
    try:
        if resume is not None and done >= settings.steps:
            learnt.install(subject.encoder)
            learnt.restore(resume)
        else:
            watch = GateWatch(learnt, statistics, every=max(1, settings.steps // _REPORTS))
            fit(job, subject.encoder, resume, (*subject.callbacks, watch), part=learnt)
    finally:
        learnt.remove()
    curve = read_lines(job.work.curve)
    subject.note(
        steps=settings.steps,
        gates=read_lines(statistics),
        loss={"first": curve[0]["loss"], "last": curve[-1]["loss"]},
        seconds=curve[-1]["elapsed_s"],
        tokens=sum(line["tokens"] for line in curve),
        cut_texts=sum(line["cut"] for line in curve),
    )
    return learnt.scores()


class GateWatch(TrainerCallback):
    """Writes down how far the gates are open, at intervals.

    Args:
        gates: The gates.
        file: JSON-lines file to add to.
        every: Steps between two lines.
    """

    def __init__(self, gates: Gates, file: Path, *, every: int) -> None:
        self._gates = gates
        self._file = file
        self._every = every

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Add a line after every so many steps and after the last."""
        if state.global_step % self._every and state.global_step < state.max_steps:
            return
        found = self._gates.statistics()
        append(self._file, {"step": state.global_step, **found})
        say(
            f"step {state.global_step}: gates {found['min']:.3f} to {found['max']:.3f}, mean {found['mean']:.4f}; "
            f"{found['closed']:.1%} closed, {found['below_half']:.1%} below 0.5"
        )
